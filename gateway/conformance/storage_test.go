package conformance

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/kubernetes"
	"go.uber.org/zap"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apiserver/pkg/apis/example"
	examplev1 "k8s.io/apiserver/pkg/apis/example/v1"
	"k8s.io/apiserver/pkg/features"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/etcd3"
	etcdfeature "k8s.io/apiserver/pkg/storage/feature"
	storagetesting "k8s.io/apiserver/pkg/storage/testing"
	"k8s.io/apiserver/pkg/storage/value"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/component-base/featuregate"
	featuregatetesting "k8s.io/component-base/featuregate/testing"
	"k8s.io/utils/clock"

	"github.com/pebbledash/pebbledash/gateway/conformance/server"
)

// This file sets up what Kubernetes' storage suites run on: its etcd3 store, as
// its own tests do it, but over a server process instead of an embedded etcd.

// codecsOf makes the scheme of the example API that the suites store.
func codecsOf(t *testing.T) (*runtime.Scheme, serializer.CodecFactory) {
	t.Helper()
	scheme := runtime.NewScheme()
	metav1.AddToGroupVersion(scheme, metav1.SchemeGroupVersion)
	require.NoError(t, metav1.AddMetaToScheme(scheme))
	require.NoError(t, example.AddToScheme(scheme))
	require.NoError(t, examplev1.AddToScheme(scheme))
	return scheme, serializer.NewCodecFactory(scheme)
}

func jsonCodec(t *testing.T) runtime.Codec {
	t.Helper()
	_, codecs := codecsOf(t)
	return codecs.LegacyCodec(examplev1.SchemeGroupVersion)
}

func protobufCodec(t *testing.T) runtime.Codec {
	t.Helper()
	scheme, codecs := codecsOf(t)
	pb := protobuf.NewSerializer(scheme, scheme)
	return codecs.CodecForVersions(pb, pb, schema.GroupVersions{examplev1.SchemeGroupVersion}, nil)
}

func newPod() runtime.Object     { return &example.Pod{} }
func newPodList() runtime.Object { return &example.PodList{} }

const resourcePrefix = "/pods/"

var pods = schema.GroupResource{Resource: "pods"}

// storageOptions is what one case's store differs in.
type storageOptions struct {
	pathPrefix  string
	codec       runtime.Codec
	transformer value.Transformer
	leases      etcd3.LeaseManagerConfig
	serverArgs  []string
}

// etcd3Store is Kubernetes' etcd3 store over a server of its own.
type etcd3Store struct {
	storage.Interface

	client      *kubernetes.Client
	codec       runtime.Codec
	transformer *swappable
	kv          *storagetesting.KVRecorder
	recorder    *storagetesting.KubernetesRecorder
}

// newEtcd3Store starts a server and opens a store over it, for one case.
//
// NB: nothing here may run in parallel with other tests: feature gates and the
// feature support checker belong to the whole process.
func newEtcd3Store(t *testing.T, opts storageOptions) *etcd3Store {
	t.Helper()
	longUnlessChosen(t)
	once(t)
	srv := server.Run(t, server.Config{Binary: target.Path, Args: opts.serverArgs})

	// The checker remembers what earlier servers could do.
	checker := etcdfeature.DefaultFeatureSupportChecker
	etcdfeature.DefaultFeatureSupportChecker = etcdfeature.NewDefaultFeatureSupportChecker()
	t.Cleanup(func() { etcdfeature.DefaultFeatureSupportChecker = checker })

	client, err := kubernetes.New(clientv3.Config{
		Endpoints:   []string{srv.Endpoint()},
		DialTimeout: requestTimeout,
		Logger:      zap.NewNop(),
	})
	require.NoError(t, err)
	t.Cleanup(func() { _ = client.Close() })
	s := &etcd3Store{client: client, codec: opts.codec, transformer: swap(opts.transformer)}
	s.recorder = storagetesting.NewKubernetesRecorder(client.Kubernetes)
	s.kv = storagetesting.NewKVRecorder(client.KV, s.recorder)
	client.KV, client.Kubernetes = s.kv, s.recorder

	versioner := storage.APIObjectVersioner{}
	compactor := etcd3.NewCompactor(client.Client, 0, clock.RealClock{}, nil)
	t.Cleanup(compactor.Stop)
	store, err := etcd3.New(client, compactor, opts.codec, newPod, newPodList, opts.pathPrefix, resourcePrefix, pods,
		s.transformer, opts.leases, etcd3.NewDefaultDecoder(opts.codec, versioner), versioner)
	require.NoError(t, err)
	t.Cleanup(store.Close)
	s.Interface = store
	return s
}

// increaseRV writes a key that no suite looks at.
func (s *etcd3Store) increaseRV(ctx context.Context, t *testing.T) int64 {
	t.Helper()
	r, err := s.client.Put(ctx, "increaseRV", "ok")
	require.NoError(t, err)
	return r.Header.Revision
}

// keys lists what the size estimation counts.
func (s *etcd3Store) keys(ctx context.Context) ([]string, error) {
	r, err := s.client.KV.Get(ctx, resourcePrefix, clientv3.WithPrefix(), clientv3.WithKeysOnly())
	if err != nil {
		return nil, err
	}
	var keys []string
	for _, kv := range r.Kvs {
		keys = append(keys, string(kv.Key))
	}
	return keys, nil
}

// compact compacts as kube-apiserver does, and waits until the store knows.
func (s *etcd3Store) compact(ctx context.Context, t *testing.T, resourceVersion string) {
	t.Helper()
	rv, err := storage.APIObjectVersioner{}.ParseResourceVersion(resourceVersion)
	require.NoError(t, err)
	// The first try may lose the race for compact_rev_key's version, and says
	// what it is.
	version, _, _, err := etcd3.Compact(ctx, s.client.Client, 0, int64(rv))
	if err != nil {
		_, _, _, err = etcd3.Compact(ctx, s.client.Client, version, int64(rv))
	}
	require.NoError(t, err)
	if utilfeature.DefaultFeatureGate.Enabled(features.ListFromCacheSnapshot) { // Else it is not told.
		eventually(ctx, t, func() bool { return s.CompactRevision() == int64(rv) })
	}
}

// pollPeriod is how often eventually asks.
const pollPeriod = 10 * time.Millisecond

// eventually waits for a change that Kubernetes makes in the background and
// tells nobody about.
func eventually(ctx context.Context, t *testing.T, done func() bool) {
	t.Helper()
	require.NoError(t, wait.PollUntilContextTimeout(ctx, pollPeriod, wait.ForeverTestTimeout, true,
		func(context.Context) (bool, error) { return done(), nil }))
}

// gate sets a feature gate of Kubernetes for one test.
func gate(t *testing.T, feature featuregate.Feature, on bool) {
	t.Helper()
	featuregatetesting.SetFeatureGateDuringTest(t, utilfeature.DefaultFeatureGate, feature, on)
}

// swappable is a transformer whose inside a suite exchanges while the store is
// in use.
type swappable struct {
	inside atomic.Pointer[value.Transformer]
}

func swap(t value.Transformer) *swappable {
	s := &swappable{}
	s.inside.Store(&t)
	return s
}

// set exchanges the transformer and returns what undoes it.
func (s *swappable) set(t value.Transformer) func() {
	old := s.inside.Swap(&t)
	return func() { s.inside.Store(old) }
}

func (s *swappable) get() value.Transformer { return *s.inside.Load() }

func (s *swappable) TransformFromStorage(ctx context.Context, data []byte, dataCtx value.Context) ([]byte, bool, error) {
	return s.get().TransformFromStorage(ctx, data, dataCtx)
}

func (s *swappable) TransformToStorage(ctx context.Context, data []byte, dataCtx value.Context) ([]byte, error) {
	return s.get().TransformToStorage(ctx, data, dataCtx)
}

// testPrefix is what newPrefixTransformer's puts before each value.
const testPrefix = "test!"

func newPrefixTransformer() *storagetesting.PrefixTransformer {
	return storagetesting.NewPrefixTransformer([]byte(testPrefix), false)
}

// withPrefixTransformer is what some suites ask for: a store whose
// PrefixTransformer they may change. It must have newPrefixTransformer's; the
// one in use cannot be copied while a cache reads in the background.
type withPrefixTransformer struct {
	storage.Interface

	transformer *swappable
}

func (s *withPrefixTransformer) UpdatePrefixTransformer(modify storagetesting.PrefixTransformerModifier) func() {
	return s.transformer.set(modify(newPrefixTransformer()))
}

// withTransformerOverride is the same for any transformer.
type withTransformerOverride struct {
	storage.Interface

	transformer *swappable
}

func (s *withTransformerOverride) UpdateTransformer(modify storagetesting.TransformerModifier) func() {
	return s.transformer.set(modify(s.transformer.get()))
}

var errSynthetic = errors.New("synthetic error")

// failingTransformer fails to read while fail is set.
type failingTransformer struct {
	value.Transformer

	fail atomic.Bool
}

func (f *failingTransformer) TransformFromStorage(ctx context.Context, data []byte, dataCtx value.Context) ([]byte, bool, error) {
	if f.fail.Load() {
		return nil, false, errSynthetic
	}
	return f.Transformer.TransformFromStorage(ctx, data, dataCtx)
}

// failingCodec fails to decode while fail is set.
type failingCodec struct {
	runtime.Codec

	fail atomic.Bool
}

func (f *failingCodec) Decode(data []byte, defaults *schema.GroupVersionKind, into runtime.Object) (runtime.Object, *schema.GroupVersionKind, error) {
	if f.fail.Load() {
		return nil, nil, errSynthetic
	}
	return f.Codec.Decode(data, defaults, into)
}

// corruptObject is the error by which the etcd3 store knows an object that
// cannot be read. Its type is private, so the store itself must make one.
func corruptObject(t *testing.T) error {
	t.Helper()
	broken := &failingTransformer{}
	broken.fail.Store(true)
	_, _, err := etcd3.WithCorruptObjErrorHandlingTransformer(broken).TransformFromStorage(t.Context(), nil, value.DefaultContext{})
	require.Error(t, err)
	return err
}

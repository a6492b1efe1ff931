package conformance

import (
	"context"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/apiserver/pkg/apis/example"
	"k8s.io/apiserver/pkg/features"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/cacher"
	"k8s.io/apiserver/pkg/storage/etcd3"
	storagetesting "k8s.io/apiserver/pkg/storage/testing"
	"k8s.io/apiserver/pkg/storage/value/encrypt/identity"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	clientfeatures "k8s.io/client-go/features"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/clock"
)

// cacherOptions is what one case's cache differs in.
type cacherOptions struct {
	storageOptions

	clusterScoped bool
	indexed       bool
}

func cacherDefaults(t *testing.T) cacherOptions {
	t.Helper()
	return cacherOptions{storageOptions: storageOptions{
		pathPrefix:  "/registry",
		codec:       protobufCodec(t),
		transformer: identity.NewEncryptCheckTransformer(),
		leases:      etcd3.NewDefaultLeaseManagerConfig(),
	}}
}

// cachedStore is kube-apiserver's watch cache over an etcd3Store, behind the
// delegator that kube-apiserver asks.
type cachedStore struct {
	storage.Interface

	under *etcd3Store
	opts  cacherOptions
	clock *compactionClock
}

func testCacher(t *testing.T) *cachedStore {
	t.Helper()
	return newCachedStore(t, cacherDefaults(t))
}

// indexedCacher mirrors the indexes of kube-apiserver's pods.
func indexedCacher(t *testing.T) *cachedStore {
	t.Helper()
	opts := cacherDefaults(t)
	opts.indexed = true
	return newCachedStore(t, opts)
}

func newCachedStore(t *testing.T, opts cacherOptions) *cachedStore {
	t.Helper()
	s := &cachedStore{under: newEtcd3Store(t, opts.storageOptions), opts: opts, clock: newCompactionClock()}
	s.open(t)
	return s
}

// open begins a cache.
func (s *cachedStore) open(t *testing.T) {
	t.Helper()
	// As upstream's tests do, let the first list fail, so that listing again is
	// part of every case. A reflector that fills its cache by a watch makes none.
	failing := &storagetesting.StorageInjectingListErrors{Interface: s.under, Errors: 1}
	if clientfeatures.FeatureGates().Enabled(clientfeatures.WatchListClient) {
		failing.Errors = 0
	}
	config := cacher.Config{
		Storage:             failing,
		Versioner:           storage.APIObjectVersioner{},
		GroupResource:       pods,
		EventsHistoryWindow: cacher.DefaultEventFreshDuration,
		ResourcePrefix:      resourcePrefix,
		KeyFunc:             func(obj runtime.Object) (string, error) { return storage.NamespaceKeyFunc(resourcePrefix, obj) },
		GetAttrsFunc:        podAttributes,
		NewFunc:             newPod,
		NewListFunc:         newPodList,
		Indexers:            &cache.Indexers{},
		Codec:               s.opts.codec,
		Clock:               s.clock,
	}
	if s.opts.clusterScoped {
		config.KeyFunc = func(obj runtime.Object) (string, error) { return storage.NoNamespaceKeyFunc(resourcePrefix, obj) }
	}
	if s.opts.indexed {
		config.IndexerFuncs, config.Indexers = podIndexes()
	}
	cached, err := cacher.NewCacherFromConfig(config)
	require.NoError(t, err)
	delegator := cacher.NewCacheDelegator(cached, failing)
	t.Cleanup(func() {
		delegator.Stop()
		cached.Stop()
	})
	s.Interface = delegator

	// The suites expect no failure of a list and no cache that is not ready.
	ctx, cancel := context.WithTimeout(context.Background(), wait.ForeverTestTimeout)
	defer cancel()
	eventually(ctx, t, func() bool {
		consumed, _ := failing.ErrorsConsumed()
		return consumed
	})
	require.NoError(t, cached.Wait(ctx))
}

func podAttributes(obj runtime.Object) (labels.Set, fields.Set, error) {
	pod, ok := obj.(*example.Pod)
	if !ok {
		return nil, nil, fmt.Errorf("%T is not a pod", obj)
	}
	return pod.Labels, fields.Set{
		"metadata.name":      pod.Name,
		"metadata.namespace": pod.Namespace,
		"spec.nodeName":      pod.Spec.NodeName,
		"spec.restartPolicy": string(pod.Spec.RestartPolicy),
		"status.phase":       string(pod.Status.Phase),
	}, nil
}

func podIndexes() (map[string]storage.IndexerFunc, *cache.Indexers) {
	nodeName := func(obj runtime.Object) string {
		pod, ok := obj.(*example.Pod)
		if !ok {
			return ""
		}
		return pod.Spec.NodeName
	}
	index := func(of func(*example.Pod) string) cache.IndexFunc {
		return func(obj any) ([]string, error) {
			pod, ok := obj.(*example.Pod)
			if !ok {
				return nil, fmt.Errorf("%T is not a pod", obj)
			}
			return []string{of(pod)}, nil
		}
	}
	return map[string]storage.IndexerFunc{"spec.nodeName": nodeName}, &cache.Indexers{
		"f:spec.nodeName":      index(func(pod *example.Pod) string { return pod.Spec.NodeName }),
		"f:metadata.namespace": index(func(pod *example.Pod) string { return pod.Namespace }),
	}
}

// compactionPeriod is how often the cache asks its store for the compact
// revision (compactorPollPeriod in the cacher). Nothing else in it waits for
// just as long.
const compactionPeriod = 15 * time.Second

// compactionClock is the real clock but for that period: what waits for it is
// woken by tick.
type compactionClock struct {
	clock.RealClock

	ticks chan time.Time
}

func newCompactionClock() *compactionClock {
	return &compactionClock{ticks: make(chan time.Time)}
}

func (c *compactionClock) NewTimer(d time.Duration) clock.Timer {
	if d != compactionPeriod {
		return c.RealClock.NewTimer(d)
	}
	return compactionTimer{c}
}

type compactionTimer struct{ clock *compactionClock }

func (t compactionTimer) C() <-chan time.Time      { return t.clock.ticks }
func (t compactionTimer) Stop() bool               { return true }
func (t compactionTimer) Reset(time.Duration) bool { return true }

// compact compacts the store below and waits until the cache has forgotten as
// much.
func (s *cachedStore) compact(ctx context.Context, t *testing.T, resourceVersion string) {
	t.Helper()
	s.under.compact(ctx, t, resourceVersion)
	if utilfeature.DefaultFeatureGate.Enabled(features.ListFromCacheSnapshot) {
		s.clock.ticks <- s.clock.Now()
		eventually(ctx, t, func() bool { return s.CompactRevision() == s.under.CompactRevision() })
	}
}

// compactAndRestart compacts the store below and begins the cache anew, as
// when kube-apiserver restarts: what it had in memory cannot stand in any more
// for what the server has forgotten.
func (s *cachedStore) compactAndRestart(ctx context.Context, t *testing.T, resourceVersion string) {
	t.Helper()
	s.under.compact(ctx, t, resourceVersion)
	etcd3.TestOnlyResetResourceSizeEstimator(s.under.Interface) // A new cache brings its own.
	s.open(t)
}

// settled makes Create wait until the cache has the object, for suites that
// watch from the cache at once.
type settled struct{ *cachedStore }

func (s *settled) Create(ctx context.Context, key string, obj, out runtime.Object, ttl uint64) error {
	if err := s.cachedStore.Create(ctx, key, obj, out, ttl); err != nil {
		return err
	}
	return wait.PollUntilContextTimeout(ctx, pollPeriod, wait.ForeverTestTimeout, true, func(ctx context.Context) (bool, error) {
		current := newPod()
		err := s.Get(ctx, key, storage.GetOptions{ResourceVersion: "0"}, current)
		if storage.IsNotFound(err) {
			return false, nil
		}
		return equality.Semantic.DeepEqual(current, out), err
	})
}

// ignoreKey and ignoreCalls stand where a suite wants to look past the store:
// the cache hands writes and pages through, and TestEtcd3 has looked.
func ignoreKey(context.Context, *testing.T, string) {}
func ignoreCalls(*testing.T, uint64, uint64)        {}

// TestCacher runs Kubernetes' suites over its watch cache, each on a server of
// its own, set up as in k8s.io/apiserver's cacher/cacher_test.go.
func TestCacher(t *testing.T) {
	t.Run("Create", func(t *testing.T) {
		storagetesting.RunTestCreate(t.Context(), t, testCacher(t), ignoreKey)
	})
	t.Run("CreateWithTTL", func(t *testing.T) {
		storagetesting.RunTestCreateWithTTL(t.Context(), t, testCacher(t))
	})
	t.Run("CreateWithKeyExist", func(t *testing.T) {
		storagetesting.RunTestCreateWithKeyExist(t.Context(), t, testCacher(t))
	})
	t.Run("Get", func(t *testing.T) {
		storagetesting.RunTestGet(t.Context(), t, testCacher(t))
	})
	t.Run("UnconditionalDelete", func(t *testing.T) {
		storagetesting.RunTestUnconditionalDelete(t.Context(), t, testCacher(t))
	})
	t.Run("ConditionalDelete", func(t *testing.T) {
		storagetesting.RunTestConditionalDelete(t.Context(), t, testCacher(t))
	})
	t.Run("DeleteWithSuggestion", func(t *testing.T) {
		storagetesting.RunTestDeleteWithSuggestion(t.Context(), t, testCacher(t))
	})
	t.Run("DeleteWithSuggestionAndConflict", func(t *testing.T) {
		storagetesting.RunTestDeleteWithSuggestionAndConflict(t.Context(), t, testCacher(t))
	})
	t.Run("DeleteWithSuggestionOfDeletedObject", func(t *testing.T) {
		storagetesting.RunTestDeleteWithSuggestionOfDeletedObject(t.Context(), t, testCacher(t))
	})
	t.Run("ValidateDeletionWithSuggestion", func(t *testing.T) {
		storagetesting.RunTestValidateDeletionWithSuggestion(t.Context(), t, testCacher(t))
	})
	t.Run("ValidateDeletionWithOnlySuggestionValid", func(t *testing.T) {
		storagetesting.RunTestValidateDeletionWithOnlySuggestionValid(t.Context(), t, testCacher(t))
	})
	t.Run("DeleteWithConflict", func(t *testing.T) {
		storagetesting.RunTestDeleteWithConflict(t.Context(), t, testCacher(t))
	})
	t.Run("DeleteWithConflictAndMissingExpectedTransformOrDecodeError", func(t *testing.T) {
		gate(t, features.AllowUnsafeMalformedObjectDeletion, true)
		opts := cacherDefaults(t)
		transformer := &failingTransformer{Transformer: opts.transformer}
		opts.transformer = transformer
		storagetesting.RunTestDeleteWithConflictAndMissingExpectedTransformOrDecodeError(t.Context(), t, newCachedStore(t, opts), transformer.fail.Store)
	})
	t.Run("DeleteExpectedTransformError", func(t *testing.T) {
		gate(t, features.AllowUnsafeMalformedObjectDeletion, true)
		opts := cacherDefaults(t)
		transformer := &failingTransformer{Transformer: opts.transformer}
		opts.transformer = transformer
		storagetesting.RunTestDeleteExpectedTransformOrDecodeError(t.Context(), t, newCachedStore(t, opts), transformer.fail.Store)
	})
	t.Run("DeleteExpectedDecodeError", func(t *testing.T) {
		gate(t, features.AllowUnsafeMalformedObjectDeletion, true)
		etcd3.TestOnlySetFatalOnDecodeError(t, false) // The suite means to see one.
		opts := cacherDefaults(t)
		codec := &failingCodec{Codec: jsonCodec(t)}
		opts.codec = codec
		storagetesting.RunTestDeleteExpectedTransformOrDecodeError(t.Context(), t, newCachedStore(t, opts), codec.fail.Store)
	})
	t.Run("DeleteWithSuggestionAndMissingExpectedTransformOrDecodeError", func(t *testing.T) {
		gate(t, features.AllowUnsafeMalformedObjectDeletion, true)
		storagetesting.RunTestDeleteWithSuggestionAndMissingExpectedTransformOrDecodeError(t.Context(), t, testCacher(t))
	})
	t.Run("PreconditionalDeleteWithSuggestion", func(t *testing.T) {
		storagetesting.RunTestPreconditionalDeleteWithSuggestion(t.Context(), t, testCacher(t))
	})
	t.Run("PreconditionalDeleteWithOnlySuggestionPass", func(t *testing.T) {
		storagetesting.RunTestPreconditionalDeleteWithOnlySuggestionPass(t.Context(), t, testCacher(t))
	})
	t.Run("ListPaging", func(t *testing.T) {
		storagetesting.RunTestListPaging(t.Context(), t, testCacher(t))
	})
	t.Run("CompactRevision", func(t *testing.T) {
		gate(t, features.ListFromCacheSnapshot, true) // It makes the store watch compact_rev_key.
		s := testCacher(t)
		storagetesting.RunTestCompactRevision(t.Context(), t, s, s.under.increaseRV, s.compact)
	})
	t.Run("GetListRecursivePrefix", func(t *testing.T) {
		storagetesting.RunTestGetListRecursivePrefix(t.Context(), t, testCacher(t))
	})
	t.Run("ListContinuation", func(t *testing.T) {
		storagetesting.RunTestListContinuation(t.Context(), t, testCacher(t), ignoreCalls)
	})
	t.Run("ListPaginationRareObject", func(t *testing.T) {
		storagetesting.RunTestListPaginationRareObject(t.Context(), t, testCacher(t), ignoreCalls)
	})
	t.Run("ListContinuationWithFilter", func(t *testing.T) {
		storagetesting.RunTestListContinuationWithFilter(t.Context(), t, testCacher(t), ignoreCalls)
	})
	t.Run("NamespaceScopedList", func(t *testing.T) {
		storagetesting.RunTestNamespaceScopedList(t.Context(), t, indexedCacher(t))
	})
	t.Run("GuaranteedUpdateWithTTL", func(t *testing.T) {
		storagetesting.RunTestGuaranteedUpdateWithTTL(t.Context(), t, testCacher(t))
	})
	t.Run("GuaranteedUpdateWithConflict", func(t *testing.T) {
		storagetesting.RunTestGuaranteedUpdateWithConflict(t.Context(), t, testCacher(t))
	})
	t.Run("GuaranteedUpdateWithSuggestionAndConflict", func(t *testing.T) {
		storagetesting.RunTestGuaranteedUpdateWithSuggestionAndConflict(t.Context(), t, testCacher(t))
	})
	t.Run("Stats", func(t *testing.T) {
		gate(t, features.SizeBasedListCostEstimate, false)
		s := testCacher(t)
		storagetesting.RunTestStats(t.Context(), t, s, s.under.codec, s.under.transformer, false)
	})
	t.Run("Stats/SizeBasedListCostEstimate", func(t *testing.T) {
		gate(t, features.SizeBasedListCostEstimate, true)
		s := testCacher(t)
		storagetesting.RunTestStats(t.Context(), t, s, s.under.codec, s.under.transformer, true)
	})
	t.Run("KeySchema", func(t *testing.T) {
		storagetesting.RunTestKeySchema(t.Context(), t, testCacher(t))
	})

	t.Run("Watch", func(t *testing.T) {
		storagetesting.RunTestWatch(t.Context(), t, testCacher(t))
	})
	t.Run("WatchFromZero", func(t *testing.T) {
		s := testCacher(t)
		storagetesting.RunTestWatchFromZero(t.Context(), t, s, s.compactAndRestart)
	})
	t.Run("DeleteTriggerWatch", func(t *testing.T) {
		storagetesting.RunTestDeleteTriggerWatch(t.Context(), t, testCacher(t))
	})
	t.Run("WatchFromNonZero", func(t *testing.T) {
		storagetesting.RunTestWatchFromNonZero(t.Context(), t, testCacher(t))
	})
	t.Run("DelayedWatchDelivery", func(t *testing.T) {
		storagetesting.RunTestDelayedWatchDelivery(t.Context(), t, testCacher(t))
	})
	t.Run("WatcherTimeout", func(t *testing.T) {
		storagetesting.RunTestWatcherTimeout(t.Context(), t, testCacher(t))
	})
	t.Run("WatchDeleteEventObjectHaveLatestRV", func(t *testing.T) {
		storagetesting.RunTestWatchDeleteEventObjectHaveLatestRV(t.Context(), t, testCacher(t))
	})
	t.Run("WatchInitializationSignal", func(t *testing.T) {
		storagetesting.RunTestWatchInitializationSignal(t.Context(), t, testCacher(t))
	})
	t.Run("ClusterScopedWatch", func(t *testing.T) {
		opts := cacherDefaults(t)
		opts.clusterScoped, opts.indexed = true, true
		storagetesting.RunTestClusterScopedWatch(t.Context(), t, newCachedStore(t, opts))
	})
	t.Run("NamespaceScopedWatch", func(t *testing.T) {
		storagetesting.RunTestNamespaceScopedWatch(t.Context(), t, indexedCacher(t))
	})
	t.Run("WatchDispatchBookmarkEvents", func(t *testing.T) {
		storagetesting.RunTestWatchDispatchBookmarkEvents(t.Context(), t, testCacher(t), true)
	})
	t.Run("WatchBookmarksWithCorrectResourceVersion", func(t *testing.T) {
		storagetesting.RunTestOptionalWatchBookmarksWithCorrectResourceVersion(t.Context(), t, testCacher(t))
	})
	t.Run("SendInitialEventsBackwardCompatibility", func(t *testing.T) {
		storagetesting.RunSendInitialEventsBackwardCompatibility(t.Context(), t, testCacher(t))
	})
	t.Run("WatchSemantics", func(t *testing.T) {
		storagetesting.RunWatchSemantics(t.Context(), t, &settled{testCacher(t)})
	})
	t.Run("WatchSemanticInitialEventsExtended", func(t *testing.T) {
		storagetesting.RunWatchSemanticInitialEventsExtended(t.Context(), t, &settled{testCacher(t)})
	})
	t.Run("WatchListMatchSingle", func(t *testing.T) {
		storagetesting.RunWatchListMatchSingle(t.Context(), t, &settled{testCacher(t)})
	})

	// Upstream leaves these out (kubernetes issue 109831), but they hold.
	t.Run("ListResourceVersionMatch", func(t *testing.T) {
		opts := cacherDefaults(t)
		opts.transformer = newPrefixTransformer()
		s := newCachedStore(t, opts)
		storagetesting.RunTestListResourceVersionMatch(t.Context(), t, &withPrefixTransformer{s, s.under.transformer})
	})
	t.Run("GuaranteedUpdate", func(t *testing.T) {
		opts := cacherDefaults(t)
		opts.transformer = newPrefixTransformer()
		s := newCachedStore(t, opts)
		storagetesting.RunTestGuaranteedUpdate(t.Context(), t, &withPrefixTransformer{s, s.under.transformer}, ignoreKey)
	})
	t.Run("GuaranteedUpdateChecksStoredData", func(t *testing.T) {
		opts := cacherDefaults(t)
		opts.codec = jsonCodec(t)
		opts.transformer = newPrefixTransformer()
		s := newCachedStore(t, opts)
		storagetesting.RunTestGuaranteedUpdateChecksStoredData(t.Context(), t, &withPrefixTransformer{s, s.under.transformer})
	})
	t.Run("WatchContextCancel", func(t *testing.T) {
		storagetesting.RunTestWatchContextCancel(t.Context(), t, testCacher(t))
	})

	for _, snapshots := range []bool{true, false} {
		t.Run(fmt.Sprintf("ListFromCacheSnapshot=%t", snapshots), func(t *testing.T) {
			gate(t, features.ListFromCacheSnapshot, snapshots)
			t.Run("List", func(t *testing.T) {
				s := testCacher(t)
				storagetesting.RunTestList(t.Context(), t, s, s.compact, true, s.under.recorder)
			})
			t.Run("ConsistentList", func(t *testing.T) {
				s := testCacher(t)
				storagetesting.RunTestConsistentList(t.Context(), t, s, s.under.increaseRV, true, true, snapshots)
			})
			t.Run("GetListNonRecursive", func(t *testing.T) {
				s := testCacher(t)
				storagetesting.RunTestGetListNonRecursive(t.Context(), t, s.under.increaseRV, s)
			})
		})
	}
}

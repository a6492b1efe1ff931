package conformance

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/apis/example"
	"k8s.io/apiserver/pkg/features"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/etcd3"
	storagetesting "k8s.io/apiserver/pkg/storage/testing"
)

func etcd3Defaults(t *testing.T) storageOptions {
	t.Helper()
	leases := etcd3.NewDefaultLeaseManagerConfig()
	leases.ReuseDurationSeconds = 1 // The suites wait for the expiry of leases.
	return storageOptions{
		codec:       jsonCodec(t),
		transformer: newPrefixTransformer(),
		leases:      leases,
	}
}

func testEtcd3(t *testing.T) *etcd3Store {
	t.Helper()
	return newEtcd3Store(t, etcd3Defaults(t))
}

// progressNotified is a store whose server notifies idle watches each second.
func progressNotified(t *testing.T) *etcd3Store {
	t.Helper()
	opts := etcd3Defaults(t)
	opts.serverArgs = []string{"--watch-progress-notify-interval=1s"}
	return newEtcd3Store(t, opts)
}

// storedObjectIsClean reads a key past the store and checks that what the
// server fills in is not kept.
func (s *etcd3Store) storedObjectIsClean(ctx context.Context, t *testing.T, key string) {
	t.Helper()
	r, err := s.client.KV.Get(ctx, key)
	require.NoError(t, err)
	require.Len(t, r.Kvs, 1)
	decoded, err := runtime.Decode(s.codec, r.Kvs[0].Value[len(testPrefix):])
	require.NoError(t, err)
	pod, ok := decoded.(*example.Pod)
	require.True(t, ok)
	require.Empty(t, pod.ResourceVersion)
}

// maxPage is the largest page that the etcd3 store asks for.
const maxPage = 10000

// checkCalls makes the suites' check that a list reads each object once and
// doubles its pages: pageSize + 2*pageSize + ... >= objects.
func (s *etcd3Store) checkCalls(t *testing.T, pageSize, objects uint64) {
	t.Helper()
	transformer, ok := s.transformer.get().(*storagetesting.PrefixTransformer)
	require.True(t, ok)
	require.Equal(t, objects, transformer.GetReadsAndReset(), "objects read")
	calls := uint64(1)
	if pageSize != 0 {
		page := pageSize
		for sum := uint64(1); sum < objects; calls++ {
			page = min(2*page, maxPage)
			sum += page
		}
	}
	require.Equal(t, calls, s.kv.GetReadsAndReset()+s.kv.GetStreamReadsAndReset(), "requests")
}

// TestEtcd3 runs Kubernetes' suites over its etcd3 store, each on a server of
// its own, set up as in k8s.io/apiserver's etcd3/store_test.go and
// watcher_test.go.
func TestEtcd3(t *testing.T) {
	t.Run("Create", func(t *testing.T) {
		s := testEtcd3(t)
		storagetesting.RunTestCreate(t.Context(), t, s, s.storedObjectIsClean)
	})
	t.Run("CreateWithTTL", func(t *testing.T) {
		storagetesting.RunTestCreateWithTTL(t.Context(), t, testEtcd3(t))
	})
	t.Run("CreateWithKeyExist", func(t *testing.T) {
		storagetesting.RunTestCreateWithKeyExist(t.Context(), t, testEtcd3(t))
	})
	t.Run("Get", func(t *testing.T) {
		storagetesting.RunTestGet(t.Context(), t, testEtcd3(t))
	})
	t.Run("UnconditionalDelete", func(t *testing.T) {
		storagetesting.RunTestUnconditionalDelete(t.Context(), t, testEtcd3(t))
	})
	t.Run("ConditionalDelete", func(t *testing.T) {
		storagetesting.RunTestConditionalDelete(t.Context(), t, testEtcd3(t))
	})
	t.Run("DeleteWithSuggestion", func(t *testing.T) {
		storagetesting.RunTestDeleteWithSuggestion(t.Context(), t, testEtcd3(t))
	})
	t.Run("DeleteWithSuggestionAndConflict", func(t *testing.T) {
		storagetesting.RunTestDeleteWithSuggestionAndConflict(t.Context(), t, testEtcd3(t))
	})
	t.Run("DeleteWithSuggestionOfDeletedObject", func(t *testing.T) {
		storagetesting.RunTestDeleteWithSuggestionOfDeletedObject(t.Context(), t, testEtcd3(t))
	})
	t.Run("ValidateDeletionWithSuggestion", func(t *testing.T) {
		storagetesting.RunTestValidateDeletionWithSuggestion(t.Context(), t, testEtcd3(t))
	})
	t.Run("ValidateDeletionWithOnlySuggestionValid", func(t *testing.T) {
		storagetesting.RunTestValidateDeletionWithOnlySuggestionValid(t.Context(), t, testEtcd3(t))
	})
	t.Run("DeleteWithConflict", func(t *testing.T) {
		storagetesting.RunTestDeleteWithConflict(t.Context(), t, testEtcd3(t))
	})
	t.Run("DeleteWithConflictAndMissingExpectedTransformOrDecodeError", func(t *testing.T) {
		gate(t, features.AllowUnsafeMalformedObjectDeletion, true)
		opts := etcd3Defaults(t)
		codec := &failingCodec{Codec: opts.codec}
		opts.codec = codec
		storagetesting.RunTestDeleteWithConflictAndMissingExpectedTransformOrDecodeError(t.Context(), t, newEtcd3Store(t, opts), codec.fail.Store)
	})
	t.Run("DeleteExpectedTransformError", func(t *testing.T) {
		gate(t, features.AllowUnsafeMalformedObjectDeletion, true)
		opts := etcd3Defaults(t)
		transformer := &failingTransformer{Transformer: opts.transformer}
		opts.transformer = transformer
		storagetesting.RunTestDeleteExpectedTransformOrDecodeError(t.Context(), t, newEtcd3Store(t, opts), transformer.fail.Store)
	})
	t.Run("DeleteExpectedDecodeError", func(t *testing.T) {
		gate(t, features.AllowUnsafeMalformedObjectDeletion, true)
		opts := etcd3Defaults(t)
		codec := &failingCodec{Codec: opts.codec}
		opts.codec = codec
		storagetesting.RunTestDeleteExpectedTransformOrDecodeError(t.Context(), t, newEtcd3Store(t, opts), codec.fail.Store)
	})
	t.Run("DeleteWithSuggestionAndMissingExpectedTransformOrDecodeError", func(t *testing.T) {
		gate(t, features.AllowUnsafeMalformedObjectDeletion, true)
		storagetesting.RunTestDeleteWithSuggestionAndMissingExpectedTransformOrDecodeError(t.Context(), t, testEtcd3(t))
	})
	t.Run("PreconditionalDeleteWithSuggestion", func(t *testing.T) {
		storagetesting.RunTestPreconditionalDeleteWithSuggestion(t.Context(), t, testEtcd3(t))
	})
	t.Run("PreconditionalDeleteWithOnlySuggestionPass", func(t *testing.T) {
		storagetesting.RunTestPreconditionalDeleteWithOnlySuggestionPass(t.Context(), t, testEtcd3(t))
	})
	t.Run("ListPaging", func(t *testing.T) {
		storagetesting.RunTestListPaging(t.Context(), t, testEtcd3(t))
	})
	t.Run("GetListNonRecursive", func(t *testing.T) {
		s := testEtcd3(t)
		storagetesting.RunTestGetListNonRecursive(t.Context(), t, s.increaseRV, s)
	})
	t.Run("GetListRecursivePrefix", func(t *testing.T) {
		storagetesting.RunTestGetListRecursivePrefix(t.Context(), t, testEtcd3(t))
	})
	t.Run("KeySchema", func(t *testing.T) {
		storagetesting.RunTestKeySchema(t.Context(), t, testEtcd3(t))
	})
	t.Run("GetListWithErrorAggregation", func(t *testing.T) {
		gate(t, features.AllowUnsafeMalformedObjectDeletion, true)
		s := testEtcd3(t)
		unsafe := etcd3.NewStoreWithUnsafeCorruptObjectDeletion(s.Interface, pods)
		storagetesting.RunTestGetListWithErrorAggregation(t.Context(), t, &withTransformerOverride{unsafe, s.transformer}, corruptObject(t))
	})
	t.Run("GetListWithoutErrorAggregation", func(t *testing.T) {
		gate(t, features.AllowUnsafeMalformedObjectDeletion, false)
		s := testEtcd3(t)
		storagetesting.RunTestGetListWithoutErrorAggregation(t.Context(), t, &withTransformerOverride{s, s.transformer}, corruptObject(t))
	})
	t.Run("GuaranteedUpdate", func(t *testing.T) {
		s := testEtcd3(t)
		storagetesting.RunTestGuaranteedUpdate(t.Context(), t, &withPrefixTransformer{s, s.transformer}, s.storedObjectIsClean)
	})
	t.Run("GuaranteedUpdateWithTTL", func(t *testing.T) {
		storagetesting.RunTestGuaranteedUpdateWithTTL(t.Context(), t, testEtcd3(t))
	})
	t.Run("GuaranteedUpdateChecksStoredData", func(t *testing.T) {
		s := testEtcd3(t)
		storagetesting.RunTestGuaranteedUpdateChecksStoredData(t.Context(), t, &withPrefixTransformer{s, s.transformer})
	})
	t.Run("GuaranteedUpdateWithConflict", func(t *testing.T) {
		storagetesting.RunTestGuaranteedUpdateWithConflict(t.Context(), t, testEtcd3(t))
	})
	t.Run("GuaranteedUpdateWithSuggestionAndConflict", func(t *testing.T) {
		storagetesting.RunTestGuaranteedUpdateWithSuggestionAndConflict(t.Context(), t, testEtcd3(t))
	})
	t.Run("TransformationFailure", func(t *testing.T) {
		s := testEtcd3(t)
		storagetesting.RunTestTransformationFailure(t.Context(), t, &withPrefixTransformer{s, s.transformer})
	})
	t.Run("CompactRevision", func(t *testing.T) {
		gate(t, features.ListFromCacheSnapshot, true) // It makes the store watch compact_rev_key.
		s := testEtcd3(t)
		storagetesting.RunTestCompactRevision(t.Context(), t, s, s.increaseRV, s.compact)
	})
	t.Run("ListContinuation", func(t *testing.T) {
		s := testEtcd3(t)
		storagetesting.RunTestListContinuation(t.Context(), t, s, s.checkCalls)
	})
	t.Run("ListPaginationRareObject", func(t *testing.T) {
		gate(t, features.ListFromCacheSnapshot, false) // It reads compact_rev_key, which would count.
		s := testEtcd3(t)
		storagetesting.RunTestListPaginationRareObject(t.Context(), t, s, s.checkCalls)
	})
	t.Run("ListContinuationWithFilter", func(t *testing.T) {
		s := testEtcd3(t)
		storagetesting.RunTestListContinuationWithFilter(t.Context(), t, s, s.checkCalls)
	})
	t.Run("NamespaceScopedList", func(t *testing.T) {
		storagetesting.RunTestNamespaceScopedList(t.Context(), t, testEtcd3(t))
	})
	t.Run("ListInconsistentContinuation", func(t *testing.T) {
		s := testEtcd3(t)
		storagetesting.RunTestListInconsistentContinuation(t.Context(), t, s, s.compact)
	})
	t.Run("ListResourceVersionMatch", func(t *testing.T) {
		s := testEtcd3(t)
		storagetesting.RunTestListResourceVersionMatch(t.Context(), t, &withPrefixTransformer{s, s.transformer})
	})
	t.Run("Stats", func(t *testing.T) {
		s := testEtcd3(t)
		storagetesting.RunTestStats(t.Context(), t, s, s.codec, s.transformer, false)
	})
	t.Run("Stats/SizeBasedListCostEstimate", func(t *testing.T) {
		s := testEtcd3(t)
		require.NoError(t, s.EnableResourceSizeEstimation(s.keys))
		storagetesting.RunTestStats(t.Context(), t, s, s.codec, s.transformer, true)
	})

	t.Run("Watch", func(t *testing.T) {
		storagetesting.RunTestWatch(t.Context(), t, testEtcd3(t))
	})
	t.Run("ClusterScopedWatch", func(t *testing.T) {
		storagetesting.RunTestClusterScopedWatch(t.Context(), t, testEtcd3(t))
	})
	t.Run("NamespaceScopedWatch", func(t *testing.T) {
		storagetesting.RunTestNamespaceScopedWatch(t.Context(), t, testEtcd3(t))
	})
	t.Run("DeleteTriggerWatch", func(t *testing.T) {
		storagetesting.RunTestDeleteTriggerWatch(t.Context(), t, testEtcd3(t))
	})
	t.Run("WatchFromZero", func(t *testing.T) {
		s := testEtcd3(t)
		storagetesting.RunTestWatchFromZero(t.Context(), t, s, s.compact)
	})
	t.Run("WatchFromNonZero", func(t *testing.T) {
		storagetesting.RunTestWatchFromNonZero(t.Context(), t, testEtcd3(t))
	})
	t.Run("DelayedWatchDelivery", func(t *testing.T) {
		storagetesting.RunTestDelayedWatchDelivery(t.Context(), t, testEtcd3(t))
	})
	t.Run("WatchError", func(t *testing.T) {
		s := testEtcd3(t)
		storagetesting.RunTestWatchError(t.Context(), t, &withPrefixTransformer{s, s.transformer})
	})
	t.Run("WatchContextCancel", func(t *testing.T) {
		storagetesting.RunTestWatchContextCancel(t.Context(), t, testEtcd3(t))
	})
	t.Run("WatcherTimeout", func(t *testing.T) {
		storagetesting.RunTestWatcherTimeout(t.Context(), t, testEtcd3(t))
	})
	t.Run("WatchDeleteEventObjectHaveLatestRV", func(t *testing.T) {
		storagetesting.RunTestWatchDeleteEventObjectHaveLatestRV(t.Context(), t, testEtcd3(t))
	})
	t.Run("WatchInitializationSignal", func(t *testing.T) {
		storagetesting.RunTestWatchInitializationSignal(t.Context(), t, testEtcd3(t))
	})
	t.Run("ProgressNotify", func(t *testing.T) {
		s := progressNotified(t)
		storagetesting.RunOptionalTestProgressNotify(t.Context(), t, s, s.increaseRV)
	})
	t.Run("WatchWithUnsafeDelete", func(t *testing.T) {
		gate(t, features.AllowUnsafeMalformedObjectDeletion, true)
		s := testEtcd3(t)
		storagetesting.RunTestWatchWithUnsafeDelete(t.Context(), t, &withTransformerOverride{s, s.transformer}, corruptObject(t))
	})
	t.Run("WatchDispatchBookmarkEvents", func(t *testing.T) {
		storagetesting.RunTestWatchDispatchBookmarkEvents(t.Context(), t, progressNotified(t), false)
	})
	t.Run("SendInitialEventsBackwardCompatibility", func(t *testing.T) {
		storagetesting.RunSendInitialEventsBackwardCompatibility(t.Context(), t, testEtcd3(t))
	})
	t.Run("WatchErrorIsBlockingFurtherEvents", func(t *testing.T) {
		s := testEtcd3(t)
		storagetesting.RunWatchErrorIsBlockingFurtherEvents(t.Context(), t, &withPrefixTransformer{s, s.transformer})
	})

	// kube-apiserver 1.37 fetches lists by RangeStream; older ones do not.
	for _, rangeStream := range []bool{false, true} {
		t.Run(fmt.Sprintf("EtcdRangeStream=%t", rangeStream), func(t *testing.T) {
			gate(t, features.EtcdRangeStream, rangeStream)
			t.Run("List", func(t *testing.T) {
				s := testEtcd3(t)
				storagetesting.RunTestList(t.Context(), t, s, s.compact, false, s.recorder)
				require.Equal(t, rangeStream, s.kv.GetStreamReadsAndReset() > 0, "whether it used RangeStream")
			})
			t.Run("ConsistentList", func(t *testing.T) {
				s := testEtcd3(t)
				storagetesting.RunTestConsistentList(t.Context(), t, s, s.increaseRV, false, true, false)
			})
			t.Run("WatchSemantics", func(t *testing.T) {
				storagetesting.RunWatchSemantics(t.Context(), t, testEtcd3(t))
			})
			t.Run("WatchSemantics/ConcurrentWatchObjectDecode", func(t *testing.T) {
				gate(t, features.ConcurrentWatchObjectDecode, true)
				storagetesting.RunWatchSemantics(t.Context(), t, testEtcd3(t))
			})
			t.Run("WatchSemanticInitialEventsExtended", func(t *testing.T) {
				storagetesting.RunWatchSemanticInitialEventsExtended(t.Context(), t, testEtcd3(t))
			})
			t.Run("WatchListMatchSingle", func(t *testing.T) {
				storagetesting.RunWatchListMatchSingle(t.Context(), t, testEtcd3(t))
			})
		})
	}
}

var _ storage.Interface = (*etcd3Store)(nil)

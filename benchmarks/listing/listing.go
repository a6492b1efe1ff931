// Package listing lists a prefix in the three ways there are: in one answer, in pages
// as kube-apiserver reads them, and as a stream. It looks at no more of an answer than
// it must.
package listing

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/pebbledash/pebbledash/benchmarks/raw"
)

// PageKeys is how many keys are on a page: kube-apiserver's usual limit.
const PageKeys = 500

// Method is a way to list.
type Method string

// The methods.
const (
	Whole  Method = "whole"
	Pages  Method = "pages"
	Stream Method = "stream"
)

// Methods are all of them.
var Methods = []Method{Whole, Pages, Stream}

// Result is what a list was.
type Result struct {
	Keys int
	// First is when the first answer was there, Took when the last was.
	First, Took time.Duration
}

// The fields of answers; see rpc.proto.
const (
	rangeHeader    = 1
	rangeKvs       = 2
	rangeMore      = 3
	headerRevision = 3
	kvKey          = 1
	chunkResponse  = 1
)

// ListPage lists the first page of the keys that begin with prefix, as a stream.
func ListPage(ctx context.Context, conn *grpc.ClientConn, prefix string) (Result, error) {
	return list(ctx, conn, Stream, prefix, PageKeys)
}

// List lists the keys that begin with prefix.
func List(ctx context.Context, conn *grpc.ClientConn, how Method, prefix string) (Result, error) {
	return list(ctx, conn, how, prefix, 0)
}

func list(ctx context.Context, conn *grpc.ClientConn, how Method, prefix string, limit int64) (Result, error) {
	end := []byte(prefix)
	end[len(end)-1]++
	began := time.Now()
	var r Result
	request := &pb.RangeRequest{Key: []byte(prefix), RangeEnd: end, Limit: limit}
	answer := func(data []byte) (chunk, error) {
		if r.First == 0 {
			r.First = time.Since(began)
		}
		c, err := parse(data)
		r.Keys += c.keys
		return c, err
	}
	var err error
	switch how {
	case Whole:
		err = whole(ctx, conn, request, answer)
	case Pages:
		request.Limit = PageKeys
		err = pages(ctx, conn, request, answer)
	case Stream:
		err = stream(ctx, conn, request, answer)
	default:
		return r, fmt.Errorf("there is no method %q", how)
	}
	r.Took = time.Since(began)
	return r, err
}

// chunk is what is looked at of an answer.
type chunk struct {
	keys     int
	last     []byte
	revision int64
	more     bool
}

func parse(data []byte) (chunk, error) {
	var c chunk
	var last []byte
	err := raw.Fields(data, func(number protowire.Number, value []byte, varint uint64) {
		switch number {
		case rangeHeader:
			c.revision = raw.Varint(value, headerRevision)
		case rangeKvs:
			c.keys++
			last = value
		case rangeMore:
			c.more = varint != 0
		default:
		}
	})
	c.last = raw.Bytes(last, kvKey)
	return c, err
}

func whole(ctx context.Context, conn *grpc.ClientConn, request *pb.RangeRequest, answer func([]byte) (chunk, error)) error {
	var m raw.Message
	err := conn.Invoke(ctx, pb.KV_Range_FullMethodName, request, &m, raw.Option(), grpc.MaxCallRecvMsgSize(math.MaxInt32))
	if err != nil {
		return err
	}
	_, err = answer(m.Take())
	return err
}

// pages reads page after page, all of the first one's revision.
func pages(ctx context.Context, conn *grpc.ClientConn, request *pb.RangeRequest, answer func([]byte) (chunk, error)) error {
	for {
		var m raw.Message
		err := conn.Invoke(ctx, pb.KV_Range_FullMethodName, request, &m, raw.Option(), grpc.MaxCallRecvMsgSize(math.MaxInt32))
		if err != nil {
			return err
		}
		c, err := answer(m.Take())
		if err != nil || !c.more {
			return err
		}
		if c.last == nil {
			return errors.New("a page without keys says that there are more")
		}
		if request.Revision == 0 {
			request.Revision = c.revision
		}
		request.Key = append(c.last, 0)
	}
}

func stream(ctx context.Context, conn *grpc.ClientConn, request *pb.RangeRequest, answer func([]byte) (chunk, error)) error {
	s, err := conn.NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, pb.KV_RangeStream_FullMethodName,
		raw.Option(), grpc.MaxCallRecvMsgSize(math.MaxInt32))
	if err != nil {
		return err
	}
	if err := errors.Join(s.SendMsg(request), s.CloseSend()); err != nil {
		return err
	}
	for {
		var m raw.Message
		if err := s.RecvMsg(&m); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if _, err := answer(raw.Bytes(m.Take(), chunkResponse)); err != nil {
			return err
		}
	}
}

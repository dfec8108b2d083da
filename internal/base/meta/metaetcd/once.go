package metaetcd

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// The client repeats a request when an attempt ends with a cancellation or a
// passed deadline that is not (yet) the caller's: the server's clock may be the
// faster one. For a transaction that writes this would be a lie: the first
// attempt may have been applied, and then the second fails its comparisons and
// is answered with a definite "not done". An attempt's context therefore carries
// a once, and an interceptor below the client's sends nothing after an attempt
// that may have been applied.

// once is one transaction's memory of its attempts. They come one after another.
type once struct {
	unknown error // how the attempt ended that may have been applied
}

type onceKey struct{}

func withOnce(ctx context.Context) context.Context {
	return context.WithValue(ctx, onceKey{}, &once{})
}

// sendOnce is the interceptor.
func sendOnce(ctx context.Context, method string, req, reply any, cc *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	o, ok := ctx.Value(onceKey{}).(*once)
	if !ok {
		return invoke(ctx, method, req, reply, cc, opts...)
	}
	if o.unknown != nil {
		return status.Error(codes.Unavailable, "not sent again after: "+o.unknown.Error())
	}
	err := invoke(ctx, method, req, reply, cc, opts...)
	if err != nil {
		if _, known := refused(err); !known {
			o.unknown = err
		}
	}
	return err
}

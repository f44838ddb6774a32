package node

import (
	"context"
	"fmt"

	"github.com/flistnode/flistnode/node/api"
	"github.com/flistnode/flistnode/p2p/limit"
)

// limits bound what a node sends and takes.
type limits struct{ up, down *limit.Limit }

// Limits implements api.Limiter.
func (n *Node) Limits(context.Context) (api.Limits, error) {
	return api.Limits{Upload: n.limits.up.Rate(), Download: n.limits.down.Rate()}, nil
}

// SetLimits implements api.Limiter. What is set holds until the node ends.
func (n *Node) SetLimits(ctx context.Context, req api.LimitsRequest) (api.Limits, error) {
	for _, rate := range []*int64{req.Upload, req.Download} {
		if rate != nil && !goodLimit(*rate) {
			return api.Limits{}, fmt.Errorf("%w: limit of %d bytes per second: want 0, for none, or at least %d", api.ErrInvalid, *rate, minLimit)
		}
	}
	if req.Upload != nil {
		n.limits.up.Set(*req.Upload)
	}
	if req.Download != nil {
		n.limits.down.Set(*req.Download)
	}
	now, err := n.Limits(ctx)
	n.log.Info("limits set", "upload", now.Upload, "download", now.Download)
	return now, err
}

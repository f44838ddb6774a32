package swarm

import (
	"errors"
	"fmt"
	"time"
)

// searchAlone looks for chunks no member holds, one by one, by the providers
// of the flist and of the chunk itself; and for any when nothing comes.
func (j *job) searchAlone(now time.Time) {
	wait := aloneAfter
	if len(j.sh.members) == 0 {
		wait /= 4
	}
	if now.Sub(j.began) < wait || j.waiting == 0 {
		return
	}
	stuck := now.Sub(j.lastCame) >= stuckAfter
	for i := range j.pending.each {
		if j.alone >= maxAlone {
			return
		}
		if (j.sh.holders[i] > 0 || j.sh.heldAside(i)) && (!stuck || j.alone >= maxAloneHeld) {
			continue
		}
		j.pending.clear(i)
		j.waiting--
		j.alone++
		id, root := j.sh.table.IDs[i], j.sh.table.Root
		j.work.Go(func() {
			packed, plain, err := j.s.GetPacked(j.ctx, id, j.class, Hint{Root: root})
			if err == nil {
				if err := j.deliver(packed, plain); err != nil {
					j.cancel(fmt.Errorf("keep %s: %w", id, err))
				}
			}
			j.foundAlone(i, err, time.Now())
		})
	}
}

func (j *job) foundAlone(i uint32, err error, now time.Time) {
	h := j.s.shares
	h.mu.Lock()
	defer h.mu.Unlock()
	defer poke(j.wake)
	j.alone--
	var gone *NotFoundError
	switch {
	case err == nil:
		j.lastCame = now
		return
	case !errors.As(err, &gone):
		j.cancel(err)
		return
	}
	first, ok := j.tries[i]
	if !ok {
		first = now.Add(-j.s.cfg.FindTimeout)
		j.tries[i] = first
	}
	if now.Sub(latest(first, j.lastCame))+j.s.cfg.FindTimeout/2 < j.patience {
		j.pending.set(i)
		j.waiting++
		return
	}
	if j.lost = append(j.lost, err); len(j.lost) >= maxLost {
		j.cancel(errors.Join(j.lost...))
	}
}

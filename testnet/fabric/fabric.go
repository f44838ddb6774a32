// Package fabric makes networks out of network namespaces on this machine:
// hosts with addresses of their own, joined by a switch at each site, and
// sites joined by uplinks. Every link has a rate and may have a delay; it can
// be cut, healed and slowed down while it is used.
//
// It knows nothing of what runs in it: a process or a socket is put into a
// host with Host.Do. Nothing outside the namespaces is changed but entries
// below /run. Addresses are 10.77.<site>.<host>, seen only inside.
//
// A Fabric may be used from many goroutines at once.
package fabric

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"sync"
	"time"
)

// Config says what a fabric is made of.
type Config struct {
	Sites []Site       // at most 200
	Log   *slog.Logger // discards when nil

	// Dir is a directory of the run, whose last element begins with
	// "flistnode-". If this process is killed the next RemoveLeftovers removes
	// it; otherwise the caller does. It may be empty.
	Dir string
}

// Site is a switched network with a router and an uplink.
type Site struct {
	Name   string
	Hosts  []string // names, unique over all sites and their names; at most 200
	Link   Shape    // of each host's link
	Uplink Shape    // of the link between the site and all others
}

// Shape is how a link treats what goes through it, the same both ways.
type Shape struct {
	BitsPerSecond int64         // 0: no limit
	Delay         time.Duration // one way; only a link made with one can have another later
}

// Counters is what went through a link, frames with their headers, as its
// host or site sees it.
type Counters struct {
	SentBytes     uint64
	ReceivedBytes uint64
}

const (
	maxSites        = 200
	maxHostsPerSite = 200
)

// Fabric is a network of namespaces. Close takes it down.
type Fabric struct {
	log   *slog.Logger
	claim *claim
	core  *namespace
	order []*Host

	mu     sync.Mutex
	hosts  map[string]*Host
	links  map[string]*Link
	spaces []*namespace // all, in the order they were made
	closed bool
}

// Available says why this process cannot make a fabric here, nil if it can.
func Available() error {
	if os.Geteuid() != 0 {
		return errors.New("network namespaces need root")
	}
	if _, err := os.Stat("/proc/self/ns/net"); err != nil {
		return fmt.Errorf("this kernel has no network namespaces: %w", err)
	}
	if f, err := os.OpenFile(tunDevice, os.O_RDWR, 0); err != nil {
		return fmt.Errorf("links with a delay need %s: %w", tunDevice, err)
	} else if err := f.Close(); err != nil {
		return err
	}
	// A namespace and what a link needs, once: capabilities and modules differ.
	f, err := New(Config{Sites: []Site{{Name: "probe", Hosts: []string{"probe1"}, Link: Shape{BitsPerSecond: 1e9}}}})
	if err != nil {
		return err
	}
	return f.Close()
}

// New makes the namespaces and the links between them. What a killed process
// left behind is removed first.
func New(cfg Config) (*Fabric, error) {
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if err := cfg.check(); err != nil {
		return nil, err
	}
	if err := RemoveLeftovers(); err != nil {
		cfg.Log.Warn("what an earlier test network left could not be removed", "err", err)
	}
	c, err := newClaim(cfg.Dir)
	if err != nil {
		return nil, err
	}
	f := &Fabric{log: cfg.Log, claim: c, hosts: map[string]*Host{}, links: map[string]*Link{}}
	if err := f.build(cfg.Sites); err != nil {
		return nil, errors.Join(fmt.Errorf("make test network: %w", err), f.Close())
	}
	return f, nil
}

func (c Config) check() error {
	if len(c.Sites) == 0 || len(c.Sites) > maxSites {
		return fmt.Errorf("test network of %d sites: want 1 to %d", len(c.Sites), maxSites)
	}
	seen := map[string]bool{}
	name := func(n string) error {
		if n == "" || len(n) > 32 || n == coreName {
			return fmt.Errorf("%q is no name of a host or site", n)
		}
		for _, r := range n {
			if (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-' {
				return fmt.Errorf("name %q: want small letters, digits and dashes", n)
			}
		}
		if seen[n] {
			return fmt.Errorf("two hosts or sites are called %q", n)
		}
		seen[n] = true
		return nil
	}
	for _, s := range c.Sites {
		if len(s.Hosts) > maxHostsPerSite {
			return fmt.Errorf("site %s of %d hosts: want at most %d", s.Name, len(s.Hosts), maxHostsPerSite)
		}
		for _, n := range append([]string{s.Name}, s.Hosts...) {
			if err := name(n); err != nil {
				return err
			}
		}
		if s.Link.BitsPerSecond < 0 || s.Uplink.BitsPerSecond < 0 || s.Link.Delay < 0 || s.Uplink.Delay < 0 {
			return fmt.Errorf("site %s: rates and delays must not be below zero", s.Name)
		}
	}
	return nil
}

// Host returns a host by name.
func (f *Fabric) Host(name string) (*Host, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	h, ok := f.hosts[name]
	if !ok {
		return nil, fmt.Errorf("test network: no host %q", name)
	}
	return h, nil
}

// Hosts returns all hosts in the order of the configuration. The slice is
// shared and must not be modified.
func (f *Fabric) Hosts() []*Host { return f.order }

// Link returns a host's link by the host's name, or a site's uplink by the
// site's.
func (f *Fabric) Link(name string) (*Link, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	l, ok := f.links[name]
	if !ok {
		return nil, fmt.Errorf("test network: no link of a host or site %q", name)
	}
	return l, nil
}

// Close takes the network down. Processes in it must have ended. A second
// Close does nothing.
func (f *Fabric) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.closed {
		return nil
	}
	f.closed = true
	var errs []error
	for _, l := range f.links {
		errs = append(errs, l.close())
	}
	for i := len(f.spaces) - 1; i >= 0; i-- {
		errs = append(errs, f.spaces[i].close())
	}
	return errors.Join(append(errs, f.claim.release())...)
}

// Host is a machine of the network.
type Host struct {
	name, site string
	addr       netip.Addr
	space      *namespace
}

// Name returns the host's name.
func (h *Host) Name() string { return h.name }

// Site returns the name of the host's site.
func (h *Host) Site() string { return h.site }

// Addr returns the host's address.
func (h *Host) Addr() netip.Addr { return h.addr }

// Namespace returns the name under which `ip netns exec` finds the host.
func (h *Host) Namespace() string { return h.space.name }

// Do calls fn on a thread that is in the host's network: processes started
// and sockets made there belong to it. Calls for one host follow one another,
// so fn should be short. The thread lives until the fabric is closed.
func (h *Host) Do(fn func() error) error { return h.space.do(fn) }

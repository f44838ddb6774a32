package fabric

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Names inside the namespaces.
const (
	coreName   = "core"   // the namespace that joins the sites
	hostEnd    = "eth0"   // a host's interface
	bridgeName = "lan"    // a site's switch
	uplinkName = "uplink" // a site's interface towards the core
)

// build makes all namespaces and links.
func (f *Fabric) build(sites []Site) error {
	var err error
	if f.core, err = f.space(coreName); err != nil {
		return err
	}
	if err := f.core.sysctl("ipv4/ip_forward", "1"); err != nil {
		return err
	}
	for i, s := range sites {
		if err := f.buildSite(byte(i+1), s); err != nil {
			return fmt.Errorf("site %s: %w", s.Name, err)
		}
	}
	return nil
}

func (f *Fabric) space(name string) (*namespace, error) {
	s, err := newNamespace(f.claim.prefix + name)
	if err != nil {
		return nil, err
	}
	f.spaces = append(f.spaces, s)
	lo, err := s.nl.LinkByName("lo")
	if err != nil {
		return nil, err
	}
	return s, s.nl.LinkSetUp(lo)
}

// buildSite makes a site's router with its switch, the uplink, and the hosts.
func (f *Fabric) buildSite(number byte, site Site) error {
	router, err := f.space(site.Name)
	if err != nil {
		return err
	}
	if err := router.sysctl("ipv4/ip_forward", "1"); err != nil {
		return err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name = bridgeName
	if err := router.nl.LinkAdd(&netlink.Bridge{LinkAttrs: attrs}); err != nil {
		return fmt.Errorf("make switch: %w", err)
	}
	gateway := netip.AddrFrom4([4]byte{10, 77, number, 1})
	if err := router.address(bridgeName, netip.PrefixFrom(gateway, 24)); err != nil {
		return err
	}
	if err := f.buildUplink(number, site, router, netip.PrefixFrom(gateway, 24).Masked()); err != nil {
		return fmt.Errorf("uplink: %w", err)
	}
	for i, name := range site.Hosts {
		h := &Host{name: name, site: site.Name, addr: netip.AddrFrom4([4]byte{10, 77, number, byte(i + 11)})}
		if err := f.buildHost(h, router, fmt.Sprintf("port%d", i+1), gateway, site.Link); err != nil {
			return fmt.Errorf("host %s: %w", name, err)
		}
	}
	return nil
}

// buildUplink joins a site to the core. Whatever is not in the site goes there.
func (f *Fabric) buildUplink(number byte, site Site, router *namespace, lan netip.Prefix) error {
	far := fmt.Sprintf("site%d", number)
	l, err := newLink(end{router, uplinkName}, end{f.core, far}, site.Uplink)
	if err != nil {
		return err
	}
	f.links[site.Name] = l
	near, core := netip.AddrFrom4([4]byte{10, 78, number, 2}), netip.AddrFrom4([4]byte{10, 78, number, 1})
	if err := router.address(uplinkName, netip.PrefixFrom(near, 30)); err != nil {
		return err
	}
	if err := f.core.address(far, netip.PrefixFrom(core, 30)); err != nil {
		return err
	}
	if err := router.route(netip.PrefixFrom(netip.IPv4Unspecified(), 0), core); err != nil {
		return err
	}
	return f.core.route(lan, near)
}

// buildHost makes a host and plugs it into its site's switch.
func (f *Fabric) buildHost(h *Host, router *namespace, port string, gateway netip.Addr, shape Shape) error {
	var err error
	if h.space, err = f.space(h.name); err != nil {
		return err
	}
	l, err := newLink(end{h.space, hostEnd}, end{router, port}, shape)
	if err != nil {
		return err
	}
	f.links[h.name] = l
	bridge, err := router.nl.LinkByName(bridgeName)
	if err != nil {
		return err
	}
	plug, err := router.nl.LinkByName(port)
	if err != nil {
		return err
	}
	if err := router.nl.LinkSetMaster(plug, bridge); err != nil {
		return err
	}
	if err := router.nl.LinkSetUp(plug); err != nil {
		return err
	}
	if err := h.space.address(hostEnd, netip.PrefixFrom(h.addr, 24)); err != nil {
		return err
	}
	if err := h.space.route(netip.PrefixFrom(netip.IPv4Unspecified(), 0), gateway); err != nil {
		return err
	}
	f.hosts[h.name], f.order = h, append(f.order, h)
	return nil
}

// address gives an interface its address and takes it up.
func (s *namespace) address(link string, p netip.Prefix) error {
	l, err := s.nl.LinkByName(link)
	if err != nil {
		return err
	}
	addr := &netlink.Addr{IPNet: ipNet(p)}
	if err := s.nl.AddrAdd(l, addr); err != nil {
		return fmt.Errorf("address %s: %w", p, err)
	}
	return s.nl.LinkSetUp(l)
}

// route sends what is for dst to via.
func (s *namespace) route(dst netip.Prefix, via netip.Addr) error {
	r := &netlink.Route{Dst: ipNet(dst), Gw: via.AsSlice(), Protocol: unix.RTPROT_STATIC}
	if err := s.nl.RouteAdd(r); err != nil {
		return fmt.Errorf("route to %s: %w", dst, err)
	}
	return nil
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

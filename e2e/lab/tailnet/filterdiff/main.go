// Command filterdiff asks Go's packet filter: cases (JSON lines) in, the same with verdicts out.
// With -generate N it makes N random cases itself, reproducibly by -seed: the golden vectors of node/src/filter/testdata.
package main

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"flag"
	"fmt"
	"log"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"

	"go4.org/netipx"
	"tailscale.com/net/packet"
	"tailscale.com/tailcfg"
	"tailscale.com/types/ipproto"
	"tailscale.com/types/logger"
	"tailscale.com/wgengine/filter"
)

var (
	flagGenerate = flag.Int("generate", 0, "number of cases to generate instead of reading them")
	flagSeed     = flag.Uint64("seed", 1, "seed of the generator")
)

// Case is one filter with the packets that are put to it.
type Case struct {
	Rules   []tailcfg.FilterRule
	Local   []netip.Prefix
	Holders map[netip.Addr][]tailcfg.NodeCapability // peers' addresses with their node capabilities
	Packets []*Packet
	Caps    []*Caps
}

// Packet is an inbound packet.
type Packet struct {
	Bytes []byte
	Reply bool `json:",omitempty"` // we have sent to its sender: UDP and SCTP
	// Strict: a fragment, or lengths that contradict each other. Nobody has to let in what Go lets in.
	Strict  bool   `json:",omitempty"`
	Verdict string // "drop", or why Go lets it in: "always", by a "rule", or only by a "cap" of its sender
}

// Caps is the question which capabilities Src has towards Dst.
type Caps struct {
	Src, Dst netip.Addr
	Caps     tailcfg.PeerCapMap
}

func main() {
	flag.Parse()
	out := json.NewEncoder(os.Stdout)
	out.SetEscapeHTML(false)
	answer := func(c *Case) {
		c.ask()
		if err := out.Encode(c); err != nil {
			log.Fatal(err)
		}
	}
	if *flagGenerate > 0 {
		g := generator{rand.New(rand.NewPCG(*flagSeed, 0))}
		for range *flagGenerate {
			answer(g.newCase())
		}
		return
	}
	in := json.NewDecoder(bufio.NewReader(os.Stdin))
	for in.More() {
		var c Case
		if err := in.Decode(&c); err != nil {
			log.Fatal(err)
		}
		answer(&c)
	}
}

func (c *Case) ask() {
	matches, _ := filter.MatchesFromFilterRules(c.Rules) // an error concerns single sources, the rest is valid
	var local netipx.IPSetBuilder
	for _, p := range c.Local {
		local.AddPrefix(p)
	}
	set, err := local.IPSet()
	if err != nil {
		log.Fatal(err)
	}
	hasCap := func(ip netip.Addr, cap tailcfg.NodeCapability) bool { return slices.Contains(c.Holders[ip], cap) }
	for _, p := range c.Packets {
		accepts := func(matches []filter.Match, hasCap filter.CapTestFunc) bool {
			f := filter.New(matches, hasCap, set, set, nil, logger.Discard) // a new one: no state from the packet before
			var q packet.Parsed
			q.Decode(p.Bytes)
			if p.Reply {
				f.UpdateOutboundFlowState(&packet.Parsed{IPProto: q.IPProto, Src: q.Dst, Dst: q.Src})
			}
			return f.RunIn(&q, 0) == filter.Accept
		}
		switch {
		case !accepts(matches, hasCap):
			p.Verdict = "drop"
		case accepts(nil, nil):
			p.Verdict = "always"
		case accepts(matches, nil):
			p.Verdict = "rule"
		default:
			p.Verdict = "cap"
		}
	}
	f := filter.New(matches, hasCap, set, set, nil, logger.Discard)
	for _, q := range c.Caps {
		q.Caps = f.CapsWithValues(q.Src, q.Dst)
	}
}

// A few addresses, so that rules and packets meet.
var (
	sources = []string{"100.64.0.2", "100.64.0.3", "100.64.1.9", "10.1.2.3", "fd7a:115c:a1e0::2", "fd7a:115c:a1e0::3", "2001:db8::9"}
	dests   = []string{"100.64.0.1", "100.64.0.1", "100.64.0.1", "fd7a:115c:a1e0::1", "fd7a:115c:a1e0::1", "100.100.0.7", "192.168.5.5", "169.254.169.254", "169.254.1.1", "224.0.0.1", "100.64.0.99",
		"fd7a:115c:a1e0::1", "fd7a:115c:a1e0:ab::7", "fe80::1", "ff02::1", "fd7a:115c:a1e0::99"}
	local = []string{"100.64.0.1/32", "100.100.0.7/32", "192.168.5.0/24", "169.254.0.0/16", "fd7a:115c:a1e0::1/128",
		"fd7a:115c:a1e0:ab::7/128", "fe80::/10"}
	sets = []string{"*", "100.64.0.0/10", "100.64.0.2", "100.64.0.2-100.64.0.3", "100.64.0.3/32", "10.0.0.0/8", "10.0.0.1-10.1.2.2", "0.0.0.0/0", "::/0",
		"fd7a:115c:a1e0::/48", "fd7a:115c:a1e0::2", "fd7a:115c:a1e0::1-fd7a:115c:a1e0::2", "2001:db8::/32"}
	broken  = []string{"100.64.0.9/24", "100.64.0.3-100.64.0.2", "100.64.0.1-::1", "example", "", "1.2.3", "10.0.0.0/33", "1.2.3.4-5-6", "cap:"}
	dstSets = []string{"*", "100.64.0.1", "100.64.0.1/32", "100.100.0.0/16", "192.168.5.1-192.168.5.9", "fd7a:115c:a1e0::1", "fd7a:115c:a1e0::/48", "169.254.0.0/16", "224.0.0.0/4", "100.64.0.1/8", "cap:a"}
	grants  = []string{"0.0.0.0/0", "::/0", "100.64.0.1/32", "100.100.0.7/32", "fd7a:115c:a1e0::1/128", "fd7a:115c:a1e0:ab::7/128"}
	caps    = []string{"a", "example.com/cap/b", "https://tailscale.com/cap/ingress"}
	protos  = []int{1, 2, 6, 6, 6, 17, 17, 17, 44, 47, 58, 58, 116, 132, 132, 132, 99, 300, -1, 0, 255}
	ports   = []uint16{0, 22, 80, 443, 8080, 65535}
)

type generator struct{ *rand.Rand }

func pick[T any](g generator, from []T) T { return from[g.IntN(len(from))] }

func (g generator) some(most int, f func()) {
	for range g.IntN(most + 1) {
		f()
	}
}

func (g generator) newCase() *Case {
	c := &Case{Holders: map[netip.Addr][]tailcfg.NodeCapability{}}
	for _, p := range local {
		if g.IntN(8) > 0 {
			c.Local = append(c.Local, netip.MustParsePrefix(p))
		}
	}
	g.some(12, func() {
		ip := netip.MustParseAddr(pick(g, sources))
		c.Holders[ip] = append(c.Holders[ip], tailcfg.NodeCapability(pick(g, caps)))
	})
	for range 1 + g.IntN(10) {
		c.Rules = append(c.Rules, g.rule())
	}
	for range 16 {
		c.Packets = append(c.Packets, g.packet(c))
	}
	for range 3 {
		c.Caps = append(c.Caps, &Caps{Src: netip.MustParseAddr(pick(g, sources)), Dst: netip.MustParseAddr(pick(g, dests))})
	}
	return c
}

func (g generator) rule() (r tailcfg.FilterRule) {
	onlyCaps := g.IntN(3) == 0
	if !onlyCaps {
		g.some(4, func() { r.SrcIPs = append(r.SrcIPs, pick(g, sets)) })
	}
	if g.IntN(4) == 0 {
		r.SrcIPs = append(r.SrcIPs, pick(g, broken))
	}
	if onlyCaps || g.IntN(4) == 0 {
		r.SrcIPs = append(r.SrcIPs, "cap:"+pick(g, caps))
	}
	if g.IntN(2) == 0 {
		g.some(4, func() { r.IPProto = append(r.IPProto, pick(g, protos)) })
	}
	if g.IntN(4) > 0 {
		g.some(4, func() {
			first, last := pick(g, ports), pick(g, ports)
			switch g.IntN(3) {
			case 0:
				first, last = 0, 65535
			case 1:
				first, last = min(first, last), max(first, last)
			}
			r.DstPorts = append(r.DstPorts, tailcfg.NetPortRange{IP: pick(g, dstSets), Ports: tailcfg.PortRange{First: first, Last: last}})
		})
		return r
	}
	g.some(3, func() {
		var grant tailcfg.CapGrant
		g.some(3, func() { grant.Dsts = append(grant.Dsts, netip.MustParsePrefix(pick(g, grants))) })
		g.some(1, func() { grant.Caps = append(grant.Caps, tailcfg.PeerCapability(pick(g, caps))) })
		g.some(2, func() {
			var values []tailcfg.RawMessage
			g.some(2, func() { values = append(values, tailcfg.RawMessage(fmt.Sprintf(`{"n":%d.0}`, g.IntN(9)))) })
			if grant.CapMap == nil {
				grant.CapMap = tailcfg.PeerCapMap{}
			}
			grant.CapMap[tailcfg.PeerCapability(pick(g, caps))] = values
		})
		r.CapGrant = append(r.CapGrant, grant)
	})
	return r
}

// flow is what rules are about.
type flow struct {
	src, dst netip.Addr
	proto    uint8
	port     uint16
}

// packet is mostly one that a rule of the case lets in, or that differs from such a one in a single thing.
func (g generator) packet(c *Case) *Packet {
	f, ok := g.allowed(c)
	other := g.anything()
	switch change := g.IntN(16); {
	case !ok:
		f = other
	case change == 0:
		f.src = other.src
	case change == 1:
		f.dst = other.dst
	case change == 2:
		f.proto = other.proto
	case change == 3:
		f.port = other.port
	}
	if f.src.Is4() != f.dst.Is4() {
		f = other
	}
	return g.wire(f)
}

// allowed looks for a flow that one of the rules lets in.
func (g generator) allowed(c *Case) (flow, bool) {
	if len(c.Rules) == 0 {
		return flow{}, false
	}
	for range 300 {
		matches, _ := filter.MatchesFromFilterRules([]tailcfg.FilterRule{pick(g, c.Rules)})
		m := matches[0]
		f := g.anything()
		if len(m.Dsts) == 0 || m.IPProto.Len() == 0 || f.src.Is4() != f.dst.Is4() {
			continue
		}
		holds := func(cap tailcfg.NodeCapability) bool { return slices.Contains(c.Holders[f.src], cap) }
		local := func(p netip.Prefix) bool { return p.Contains(f.dst) }
		to := pick(g, m.Dsts)
		if !to.Net.Contains(f.dst) || to.Ports.First > to.Ports.Last || !slices.ContainsFunc(c.Local, local) {
			continue
		}
		if !m.SrcsContains(f.src) && !slices.ContainsFunc(m.SrcCaps, holds) {
			continue
		}
		f.proto = uint8(m.IPProto.At(g.IntN(m.IPProto.Len())))
		f.port = to.Ports.First + uint16(g.IntN(int(to.Ports.Last-to.Ports.First)+1))
		return f, true
	}
	return flow{}, false
}

func (g generator) anything() flow {
	return flow{
		src:   netip.MustParseAddr(pick(g, sources)),
		dst:   netip.MustParseAddr(pick(g, dests)),
		proto: pick(g, []uint8{1, 1, 1, 2, 6, 6, 6, 17, 17, 44, 47, 58, 58, 58, 99, 116, 132, 0, 255}),
		port:  pick(g, ports),
	}
}

// wire is mostly a whole packet that starts the flow.
func (g generator) wire(f flow) *Packet {
	p := &Packet{Strict: f.proto == 44 && f.src.Is6()} // a fragment of anything
	body := make([]byte, 24)
	for i := range body {
		body[i] = byte(g.Uint32())
	}
	switch proto := ipproto.Proto(f.proto); proto {
	case ipproto.TCP, ipproto.UDP, ipproto.SCTP:
		binary.BigEndian.PutUint16(body[0:], 999)
		binary.BigEndian.PutUint16(body[2:], f.port)
		if proto != ipproto.TCP {
			p.Reply = g.IntN(12) == 0
			binary.BigEndian.PutUint16(body[4:], uint16(len(body))) // UDP
			break
		}
		body[12] = 5 << 4
		body[13] = pick(g, []byte{0x02, 0x02, 0x02, 0x02, 0x42, 0xc2, 0x03, 0x12, 0x10, 0x04, 0x00})
	case ipproto.ICMPv4:
		body[0], body[1] = pick(g, []byte{8, 8, 8, 0, 3, 5, 11, 12, 13, 18}), pick(g, []byte{0, 0, 1})
	case ipproto.ICMPv6:
		body[0], body[1] = pick(g, []byte{128, 128, 128, 0, 1, 2, 3, 4, 5, 129, 135}), pick(g, []byte{0, 0, 1})
	}
	switch g.IntN(16) {
	case 0: // a header that ends too early, or just not
		body = body[:g.IntN(24)]
		p.Strict = p.Strict || f.proto == 17 // its length is wrong now
	case 1, 2:
		p.Strict = true
		offset := pick(g, []uint16{0, 0, 1, 9, 10, 100})
		more := g.IntN(2) == 0
		p.Bytes = ip(f, body, &offset, more)
		return p
	}
	p.Bytes = ip(f, body, nil, false)
	switch g.IntN(24) {
	case 0: // WireGuard's padding, which isn't part of the packet
		p.Strict = true // Go may take it for the packet's
		p.Bytes = append(p.Bytes, make([]byte, 16)...)
	case 1:
		p.Bytes = p.Bytes[:g.IntN(len(p.Bytes))+1]
	case 2:
		p.Strict = true
		if f.src.Is4() {
			p.Bytes[0] = 0x40 | byte(g.IntN(16))
		} else {
			binary.BigEndian.PutUint16(p.Bytes[4:], uint16(g.IntN(64)))
		}
	case 3:
		p.Bytes[0] = byte(g.IntN(16))<<4 | p.Bytes[0]&15
		p.Strict = true
	}
	return p
}

// ip puts a header before the body; with an offset, in blocks of 8 bytes, that of a fragment.
func ip(f flow, body []byte, offset *uint16, more bool) []byte {
	src, dst := f.src.AsSlice(), f.dst.AsSlice()
	if f.src.Is4() {
		head := make([]byte, 20)
		head[0] = 0x45
		binary.BigEndian.PutUint16(head[2:], uint16(20+len(body)))
		if offset != nil {
			binary.BigEndian.PutUint16(head[6:], *offset)
			if more {
				head[6] |= 0x20
			}
		}
		head[9] = f.proto
		copy(head[12:], src)
		copy(head[16:], dst)
		return append(head, body...)
	}
	next := f.proto
	if offset != nil {
		fragment := []byte{f.proto, 0, 0, 0, 0, 0, 0, 1}
		binary.BigEndian.PutUint16(fragment[2:], *offset<<3)
		if more {
			fragment[3] |= 1
		}
		body = append(fragment, body...)
		next = 44
	}
	head := make([]byte, 40)
	head[0] = 0x60
	binary.BigEndian.PutUint16(head[4:], uint16(len(body)))
	head[6] = next
	copy(head[8:], src)
	copy(head[24:], dst)
	return append(head, body...)
}

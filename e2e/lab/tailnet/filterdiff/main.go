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

// Packet is an inbound packet. Kind: "syn", "ack", "reply" (UDP/SCTP: to a flow of ours), "request", "response", "fragment" or "".
type Packet struct {
	Src, Dst netip.AddrPort
	Proto    uint8
	Kind     string
	Accept   bool
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
		f := filter.New(matches, hasCap, set, set, nil, logger.Discard) // a new one: no state from the packet before
		if p.Kind == "reply" {
			var sent packet.Parsed
			sent.Decode((&Packet{Src: p.Dst, Dst: p.Src, Proto: p.Proto}).bytes())
			f.RunOut(&sent, 0)
		}
		var q packet.Parsed
		q.Decode(p.bytes())
		p.Accept = f.RunIn(&q, 0) == filter.Accept
	}
	f := filter.New(matches, hasCap, set, set, nil, logger.Discard)
	for _, q := range c.Caps {
		q.Caps = f.CapsWithValues(q.Src, q.Dst)
	}
}

// bytes is the packet on the wire, as far as the filter reads it.
func (p *Packet) bytes() []byte {
	body := make([]byte, 40)
	binary.BigEndian.PutUint16(body[0:], p.Src.Port())
	binary.BigEndian.PutUint16(body[2:], p.Dst.Port())
	v4 := p.Src.Addr().Is4()
	switch proto := ipproto.Proto(p.Proto); {
	case proto == ipproto.TCP:
		body[12] = 5 << 4
		body[13] = map[string]byte{"syn": 0x02, "ack": 0x12}[p.Kind]
	case proto == ipproto.ICMPv4 && v4:
		clear(body)
		body[0] = map[string]byte{"request": 8, "response": 0}[p.Kind]
	case proto == ipproto.ICMPv6 && !v4:
		clear(body)
		body[0] = map[string]byte{"request": 128, "response": 129}[p.Kind]
	}
	src, dst := p.Src.Addr().AsSlice(), p.Dst.Addr().AsSlice()
	if v4 {
		head := make([]byte, 20)
		head[0] = 0x45
		binary.BigEndian.PutUint16(head[2:], uint16(20+len(body)))
		if p.Kind == "fragment" {
			binary.BigEndian.PutUint16(head[6:], 100)
		}
		head[9] = p.Proto
		copy(head[12:], src)
		copy(head[16:], dst)
		return append(head, body...)
	}
	next := p.Proto
	if p.Kind == "fragment" {
		body = append([]byte{p.Proto, 0, 100 >> 5, (100 << 3) & 0xff, 0, 0, 0, 1}, body...)
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

// A few addresses, so that rules and packets meet.
var (
	sources = []string{"100.64.0.2", "100.64.0.3", "100.64.1.9", "10.1.2.3", "fd7a:115c:a1e0::2", "fd7a:115c:a1e0::3", "2001:db8::9"}
	dests   = []string{"100.64.0.1", "100.64.0.1", "100.64.0.1", "fd7a:115c:a1e0::1", "fd7a:115c:a1e0::1", "100.100.0.7", "192.168.5.5", "169.254.169.254", "169.254.1.1", "224.0.0.1", "100.64.0.99",
		"fd7a:115c:a1e0::1", "fd7a:115c:a1e0:ab::7", "fe80::1", "ff02::1", "fd7a:115c:a1e0::99"}
	local = []string{"100.64.0.1/32", "100.100.0.7/32", "192.168.5.0/24", "169.254.0.0/16", "fd7a:115c:a1e0::1/128",
		"fd7a:115c:a1e0:ab::7/128", "fe80::/10"}
	sets = []string{"*", "100.64.0.0/10", "100.64.0.2", "100.64.0.2-100.64.0.3", "100.64.0.3/32", "10.0.0.0/8", "10.0.0.1-10.1.2.2", "0.0.0.0/0", "::/0",
		"fd7a:115c:a1e0::/48", "fd7a:115c:a1e0::2", "fd7a:115c:a1e0::1-fd7a:115c:a1e0::2", "2001:db8::/32"}
	broken  = []string{"100.64.0.9/24", "100.64.0.3-100.64.0.2", "100.64.0.1-::1", "example", "", "1.2.3", "10.0.0.0/33", "1.2.3.4-5-6"}
	dstSets = []string{"*", "100.64.0.1", "100.64.0.1/32", "100.100.0.0/16", "192.168.5.1-192.168.5.9", "fd7a:115c:a1e0::1", "fd7a:115c:a1e0::/48", "169.254.0.0/16", "224.0.0.0/4", "100.64.0.1/8", "cap:a"}
	grants  = []string{"0.0.0.0/0", "::/0", "100.64.0.1/32", "100.100.0.7/32", "fd7a:115c:a1e0::1/128", "fd7a:115c:a1e0:ab::7/128"}
	caps    = []string{"a", "example.com/cap/b", "https://tailscale.com/cap/ingress"}
	protos  = []int{1, 6, 17, 47, 58, 99, 116, 132, 300, -1, 0}
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
	g.some(3, func() {
		ip := netip.MustParseAddr(pick(g, sources))
		c.Holders[ip] = append(c.Holders[ip], tailcfg.NodeCapability(pick(g, caps)))
	})
	g.some(8, func() { c.Rules = append(c.Rules, g.rule()) })
	for range 12 {
		c.Packets = append(c.Packets, g.packet())
	}
	for range 3 {
		c.Caps = append(c.Caps, &Caps{Src: netip.MustParseAddr(pick(g, sources)), Dst: netip.MustParseAddr(pick(g, dests))})
	}
	return c
}

func (g generator) rule() (r tailcfg.FilterRule) {
	g.some(4, func() { r.SrcIPs = append(r.SrcIPs, pick(g, sets)) })
	if g.IntN(4) == 0 {
		r.SrcIPs = append(r.SrcIPs, pick(g, broken))
	}
	if g.IntN(4) == 0 {
		r.SrcIPs = append(r.SrcIPs, "cap:"+pick(g, caps))
	}
	if g.IntN(3) == 0 {
		g.some(2, func() { r.IPProto = append(r.IPProto, pick(g, protos)) })
	}
	if g.IntN(3) > 0 {
		g.some(3, func() {
			first, last := pick(g, ports), pick(g, ports)
			if g.IntN(3) == 0 {
				first, last = 0, 65535
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

func (g generator) packet() *Packet {
	src, dst := netip.MustParseAddr(pick(g, sources)), netip.MustParseAddr(pick(g, dests))
	for src.Is4() != dst.Is4() {
		dst = netip.MustParseAddr(pick(g, dests))
	}
	p := &Packet{Proto: pick(g, []uint8{1, 6, 6, 6, 17, 17, 47, 58, 99, 116, 132, 0, 255})}
	var sport, dport uint16
	switch p.Proto {
	case 6:
		p.Kind, sport, dport = pick(g, []string{"syn", "syn", "syn", "ack", "fragment"}), 999, pick(g, ports)
	case 17, 132:
		p.Kind, sport, dport = pick(g, []string{"", "", "reply", "fragment"}), 999, pick(g, ports)
	case 1, 58:
		p.Kind = pick(g, []string{"request", "request", "response"})
	}
	p.Src, p.Dst = netip.AddrPortFrom(src, sport), netip.AddrPortFrom(dst, dport)
	return p
}

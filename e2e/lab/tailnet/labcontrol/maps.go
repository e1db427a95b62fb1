package main

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
	"tailscale.com/util/zstdframe"
)

// mapWriter changes the automatic maps on their way to a node, where testcontrol has no hook for each of them:
// certificate domains per node, the filter, the time. Raw maps pass untouched.
type mapWriter struct {
	http.ResponseWriter
	l        *lab
	node     key.NodePublic
	compress bool
	pending  []byte
}

func (w *mapWriter) Flush() { w.ResponseWriter.(http.Flusher).Flush() }

// Write collects frames: a little-endian length of four bytes, then a message.
func (w *mapWriter) Write(b []byte) (int, error) {
	w.pending = append(w.pending, b...)
	for len(w.pending) >= 4 {
		n := int(binary.LittleEndian.Uint32(w.pending))
		if len(w.pending) < 4+n {
			break
		}
		msg := w.edit(w.pending[4 : 4+n])
		w.pending = bytes.Clone(w.pending[4+n:])
		if _, err := w.ResponseWriter.Write(append(binary.LittleEndian.AppendUint32(nil, uint32(len(msg))), msg...)); err != nil {
			return 0, err
		}
	}
	return len(b), nil
}

func (w *mapWriter) edit(msg []byte) []byte {
	plain := msg
	if w.compress {
		var err error
		if plain, err = zstdframe.AppendDecode(nil, msg); err != nil {
			return msg
		}
	}
	// Only the keys that change are decoded: what a test put into the others stays as it is.
	var m map[string]json.RawMessage
	if json.Unmarshal(plain, &m) != nil || m["Domain"] == nil || m["ControlTime"] == nil {
		return msg // a keep-alive, or made by a test
	}
	set := func(k string, v any) { m[k], _ = json.Marshal(v) }
	set("ControlTime", time.Now())
	dns := new(tailcfg.DNSConfig)
	if json.Unmarshal(m["DNSConfig"], dns) == nil {
		dns.CertDomains = w.l.certDomains(w.node)
		set("DNSConfig", dns)
	}
	w.l.mu.Lock()
	filter := w.l.filter
	var grants []tailcfg.FilterRule
	if st := w.l.nodes[w.node]; st != nil {
		grants = st.grants
	}
	w.l.mu.Unlock()
	var own []tailcfg.FilterRule
	if filter != nil {
		set("PacketFilter", append(slices.Clip(filter), grants...)) // not null where both are empty: that would change nothing
	} else if json.Unmarshal(m["PacketFilter"], &own) == nil {
		set("PacketFilter", append(w.l.onlyEdges(own), grants...))
	}
	plain, _ = json.Marshal(m)
	if w.compress {
		return zstdframe.AppendEncode(nil, plain, zstdframe.FastestCompression)
	}
	return plain
}

// onlyEdges changes testcontrol's rules: it grants the ingress capability to everybody, but only Funnel's edge has it.
func (l *lab) onlyEdges(rules []tailcfg.FilterRule) []tailcfg.FilterRule {
	l.mu.Lock()
	defer l.mu.Unlock()
	srcs := []string{}
	for _, n := range l.ingress {
		for _, a := range n.Addresses {
			srcs = append(srcs, a.Addr().String())
		}
	}
	slices.Sort(srcs)
	out := []tailcfg.FilterRule{}
	for _, rule := range rules {
		grants := slices.ContainsFunc(rule.CapGrant, func(g tailcfg.CapGrant) bool {
			return slices.Contains(g.Caps, tailcfg.PeerCapabilityIngress)
		})
		if grants {
			rule.SrcIPs = srcs
		}
		out = append(out, rule)
	}
	return out
}

// grantIngress gives a node the ingress capability, or takes it.
func (l *lab) grantIngress(n *tailcfg.Node, on bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if on {
		l.ingress[n.StableID] = n
	} else {
		delete(l.ingress, n.StableID)
	}
}

// certDomains are the names for which the node may get certificates: its own, and those of services that it hosts with approval.
func (l *lab) certDomains(nk key.NodePublic) []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.tcMu.Lock()
	defer l.tcMu.Unlock()
	n := l.tcNodes()[nk]
	if n == nil {
		return []string{}
	}
	out := []string{strings.TrimSuffix(n.Name, ".")}
	for name, s := range l.services {
		advertised := l.nodes[nk] != nil && l.nodes[nk].adv[name] != nil || s.forced[n.StableID]
		if advertised && s.approved[n.StableID] && len(n.Tags) > 0 {
			out = append(out, strings.TrimPrefix(name, "svc:")+"."+*flagDomain)
		}
	}
	slices.Sort(out[1:])
	return out
}

// setDNS refuses challenges for names that are not the node's; testcontrol checks the rest.
func (l *lab) setDNS(w http.ResponseWriter, r *http.Request) {
	var req tailcfg.SetDNSRequest
	if !peekBody(w, r, &req) {
		return
	}
	name, ok := strings.CutPrefix(req.Name, "_acme-challenge.")
	if !ok || !slices.Contains(l.certDomains(req.NodeKey), name) {
		http.Error(w, "name is not an ACME challenge for a cert domain of this node", http.StatusForbidden)
		return
	}
	l.orig.ServeHTTP(w, r)
}

// uniqueName is the tailnet name for a new device: the host name, or with "-1", "-2", … while another one has it.
// Both locks must be held.
func (l *lab) uniqueName(host string, except ...key.NodePublic) string {
	taken := func(name string) bool {
		for nk, n := range l.tcNodes() {
			if n.Name == name && !slices.Contains(except, nk) {
				return true
			}
		}
		return false
	}
	name := host + "." + *flagDomain + "."
	for i := 1; taken(name); i++ {
		name = fmt.Sprintf("%s-%d.%s.", host, i, *flagDomain)
	}
	return name
}

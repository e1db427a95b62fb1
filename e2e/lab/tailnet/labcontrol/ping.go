package main

import (
	"encoding/json"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"tailscale.com/tailcfg"
)

// ping asks a node to ping and answers with what it says: {"Types":"disco,TSMP","IP":…}, a list of PingResponse.
func (l *lab) ping(w http.ResponseWriter, r *http.Request, n *tailcfg.Node) {
	var in struct {
		Types string
		IP    netip.Addr
	}
	if !peekBody(w, r, &in) {
		return
	}
	types := strings.Split(in.Types, ",")
	id, answers := randHex(8), make(chan json.RawMessage, len(types))
	l.mu.Lock()
	l.pings[id] = answers
	l.mu.Unlock()
	defer func() {
		l.mu.Lock()
		delete(l.pings, id)
		l.mu.Unlock()
	}()
	if !l.tc.AddPingRequest(n.Key, &tailcfg.PingRequest{URL: l.tc.ExplicitBaseURL + "/ping/" + id, Types: in.Types, IP: in.IP}) {
		fail(w, 409, "node is not connected")
		return
	}
	out := []json.RawMessage{}
	timeout := time.After(15 * time.Second)
	for range types {
		select {
		case a := <-answers:
			out = append(out, a)
		case <-timeout:
			fail(w, 504, "%d of %d answers came", len(out), len(types))
			return
		case <-r.Context().Done():
			return
		}
	}
	reply(w, out)
}

// servePing takes a node's answer.
func (l *lab) servePing(w http.ResponseWriter, r *http.Request) {
	l.mu.Lock()
	answers := l.pings[strings.TrimPrefix(r.URL.Path, "/ping/")]
	l.mu.Unlock()
	b, _ := io.ReadAll(io.LimitReader(r.Body, 1<<16))
	if len(b) == 0 {
		b = []byte("null") // a HEAD
	}
	if answers == nil || !json.Valid(b) {
		http.Error(w, "unknown ping", 404)
		return
	}
	select {
	case answers <- b:
	default:
	}
}

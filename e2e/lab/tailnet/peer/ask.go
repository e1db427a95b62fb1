package main

import (
	"context"
	"flag"
	"log"

	"tailscale.com/client/local"
	"tailscale.com/ipn/ipnstate"
)

var flagSocket = flag.String("socket", "", "ask: unix socket of the LocalAPI to be compared")

// answers is what one LocalAPI says, read into Go's own types.
type answers struct {
	Status *ipnstate.Status
	WhoIs  map[string]any
}

// ask puts the same questions to a LocalAPI and to that of a tsnet node of its own on the same tailnet.
func ask(ctx context.Context) {
	s := newServer(*flagHostname, *flagDir)
	defer s.Close()
	gos := up(s)
	asked := &local.Client{Socket: *flagSocket, UseSocketOnly: true}
	out := map[string]any{}
	for name, lc := range map[string]*local.Client{"asked": asked, "gos": gos} {
		status, err := lc.Status(ctx)
		if err != nil {
			log.Fatalf("%s: status: %v", name, err)
		}
		a := answers{Status: status, WhoIs: map[string]any{}}
		for _, addr := range flag.Args() {
			who, err := lc.WhoIs(ctx, addr)
			if err != nil {
				a.WhoIs[addr] = err.Error()
			} else {
				a.WhoIs[addr] = who
			}
		}
		out[name] = a
	}
	event("asked", out)
}

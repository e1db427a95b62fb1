package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"sync"

	"tailscale.com/derp/derpserver"
	"tailscale.com/net/stunserver"
	"tailscale.com/tailcfg"
	"tailscale.com/types/key"
	"tailscale.com/types/logger"
)

// relays are the relay regions, numbered from 1, each with a DERP and a STUN server.
type relays struct {
	ctx  context.Context
	logf logger.Logf

	mu      sync.Mutex
	outages []*outage
}

// outage is that of a region's DERP server; nil when there is no such region.
func (r *relays) outage(region int) *outage {
	r.mu.Lock()
	defer r.mu.Unlock()
	if region < 1 || region > len(r.outages) {
		return nil
	}
	return r.outages[region-1]
}

// add starts one more region and returns the map with it.
func (r *relays) add(known *tailcfg.DERPMap) (*tailcfg.DERPMap, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	id := len(r.outages) + 1
	out := new(outage)
	region, err := r.start(id, out)
	if err != nil {
		return nil, err
	}
	r.outages = append(r.outages, out)
	all := &tailcfg.DERPMap{OmitDefaultRegions: true, Regions: map[int]*tailcfg.DERPRegion{id: region}}
	if known != nil {
		for id, region := range known.Regions {
			all.Regions[id] = region
		}
	}
	return all, nil
}

// start runs the servers of a region and describes them.
func (r *relays) start(id int, out *outage) (*tailcfg.DERPRegion, error) {
	cert, pin, err := selfSigned(*flagIP)
	if err != nil {
		return nil, err
	}
	srv := derpserver.New(key.NewNode(), r.logf)
	mux := http.NewServeMux()
	mux.Handle("/derp", derpserver.AddWebSocketSupport(srv, derpserver.Handler(srv)))
	mux.HandleFunc("/derp/probe", derpserver.ProbeHandler)
	mux.HandleFunc("/derp/latency-check", derpserver.ProbeHandler)
	mux.HandleFunc("/generate_204", derpserver.ServeNoContent)
	ln, err := net.Listen("tcp", fmt.Sprintf("%s:%d", *flagIP, *flagDERP+id-1))
	if err != nil {
		return nil, err
	}
	hs := &http.Server{
		Handler:      mux,
		TLSConfig:    &tls.Config{Certificates: []tls.Certificate{cert}},
		TLSNextProto: map[string]func(*http.Server, *tls.Conn, http.Handler){}, // DERP hijacks: no HTTP/2
		ErrorLog:     logger.StdLogger(r.logf),
	}
	go hs.ServeTLS(out.listener(ln), "", "")

	stun := stunserver.New(r.ctx)
	if err := stun.Listen(fmt.Sprintf("%s:%d", *flagIP, *flagSTUN+id-1)); err != nil {
		return nil, err
	}
	go stun.Serve()
	node := &tailcfg.DERPNode{
		Name: fmt.Sprintf("%da", id), RegionID: id, HostName: *flagIP, IPv4: *flagIP, IPv6: "none",
		STUNPort: stun.LocalAddr().(*net.UDPAddr).Port, DERPPort: ln.Addr().(*net.TCPAddr).Port,
	}
	if *flagPin {
		node.CertName = "sha256-raw:" + pin
	} else {
		node.InsecureForTests = true
	}
	region := &tailcfg.DERPRegion{RegionID: id, RegionCode: "lab", RegionName: "Lab", Nodes: []*tailcfg.DERPNode{node}}
	if id > 1 {
		region.RegionCode, region.RegionName = fmt.Sprintf("lab%d", id), fmt.Sprintf("Lab %d", id)
	}
	return region, nil
}

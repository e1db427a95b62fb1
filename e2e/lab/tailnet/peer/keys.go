package main

import (
	"net/http"
	"reflect"
	"sync/atomic"
	"unsafe"

	"github.com/tailscale/wireguard-go/device"
	"tailscale.com/tsnet"
	"tailscale.com/types/key"
)

// wearOut makes WireGuard's keys with the node ?key= as old as they get, so that Go wants new ones: after 2^60 messages,
// or with ?fully=true after all that it may send with them. Neither it nor two minutes can be waited for.
func (c *clientSet) wearOut(w http.ResponseWriter, r *http.Request) {
	n, err := c.node(r.PathValue("name"))
	var of key.NodePublic
	if err == nil {
		err = of.UnmarshalText([]byte(r.FormValue("key")))
	}
	if err != nil {
		http.Error(w, err.Error(), 400)
		return
	}
	peer, ok := wireguard(n.s).LookupActivePeer(of.Raw32())
	if !ok {
		http.Error(w, "no such peer", 404)
		return
	}
	if r.FormValue("fully") == "true" {
		peer.ExpireCurrentKeypairs()
		return
	}
	current := unexported[device.Keypairs](peer, "keypairs").Current()
	if current == nil {
		http.Error(w, "no session", 409)
		return
	}
	unexported[atomic.Uint64](current, "sendNonce").Store(device.RekeyAfterMessages + 1)
}

// logInAnew makes the node register with a new node key, by the auth key that it started with.
func (c *clientSet) logInAnew(w http.ResponseWriter, r *http.Request) {
	n, err := c.node(r.PathValue("name"))
	if err == nil {
		err = n.lc.StartLoginInteractive(r.Context())
	}
	if err != nil {
		http.Error(w, err.Error(), 500)
	}
}

// wireguard is what the node encrypts with.
func wireguard(s *tsnet.Server) *device.Device {
	return *unexported[*device.Device](s.Sys().Engine.Get(), "wgdev")
}

// unexported gives access to a field of what of points to.
func unexported[T any](of any, name string) *T {
	return (*T)(unsafe.Pointer(reflect.ValueOf(of).Elem().FieldByName(name).UnsafeAddr()))
}

package main

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"strings"
	"time"

	"tailscale.com/tsnet"
)

var flagTargetPort = flag.Int("target-port", 443, "edge: the port that clients on the internet ask for")

// becomeIngress makes this node a Funnel ingress node of the tailnet, with the capability.
func becomeIngress() {
	req, _ := http.NewRequest("PUT", *flagAdmin+"/admin/nodes/"+*flagHostname+"/ingress", strings.NewReader("true"))
	if res, err := http.DefaultClient.Do(req); err != nil || res.StatusCode != 200 {
		log.Fatalf("cannot become an ingress node: %v", err)
	}
}

// edge is Funnel's edge: who connects to -listen is brought to the node of which TLS names the host, undecrypted.
func edge(ctx context.Context) {
	s := newServer(*flagHostname, *flagDir)
	up(s)
	becomeIngress()
	ln, err := net.Listen("tcp", *flagListen)
	if err != nil {
		log.Fatal(err)
	}
	event("serving", nil)
	go func() {
		<-ctx.Done()
		os.Exit(0) // not s.Close(): it can hang while connections are open
	}()
	for {
		c, err := ln.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go func() {
			defer c.Close()
			if err := bring(ctx, s, c.(*net.TCPConn)); err != nil {
				event("refused", map[string]any{"error": err.Error()})
			}
		}()
	}
}

func bring(ctx context.Context, s *tsnet.Server, client *net.TCPConn) error {
	client.SetReadDeadline(time.Now().Add(10 * time.Second))
	host, hello := peekServerName(client)
	client.SetReadDeadline(time.Time{})
	if host == "" {
		return errors.New("no server name")
	}
	label, _, _ := strings.Cut(host, ".")
	dctx, cancel := context.WithTimeout(ctx, 15*time.Second)
	defer cancel()
	up, err := dialIngress(dctx, s, label, client.RemoteAddr().String(), fmt.Sprintf("%s:%d", host, *flagTargetPort))
	if err != nil {
		return err
	}
	defer up.Close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		io.Copy(up, io.MultiReader(bytes.NewReader(hello), client))
		if w, ok := up.(interface{ CloseWrite() error }); ok {
			w.CloseWrite()
		}
	}()
	io.Copy(client, up)
	client.CloseWrite()
	<-done
	return nil
}

// peekServerName reads a ClientHello: the name that it asks for, and its bytes.
func peekServerName(c net.Conn) (name string, hello []byte) {
	var seen bytes.Buffer
	tls.Server(readOnly{c, io.TeeReader(c, &seen)}, &tls.Config{
		GetConfigForClient: func(h *tls.ClientHelloInfo) (*tls.Config, error) {
			name = h.ServerName
			return nil, errors.New("seen enough")
		},
	}).Handshake()
	return name, seen.Bytes()
}

type readOnly struct {
	net.Conn
	r io.Reader
}

func (c readOnly) Read(b []byte) (int, error)  { return c.r.Read(b) }
func (c readOnly) Write(b []byte) (int, error) { return len(b), nil }

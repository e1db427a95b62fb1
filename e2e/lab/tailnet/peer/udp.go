package main

import (
	"context"
	"flag"
	"log"
	"net"
	"time"
)

var flagTo = flag.String("to", "", "udp: HOST:PORT that sends datagrams back")

// udp sends a datagram until it comes back: some may be lost, and the first ones wait for nobody.
func udp(ctx context.Context) {
	s := newServer(*flagHostname, *flagDir)
	up(s)
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	var c net.Conn
	var err error
	for c == nil { // its name may be news
		if c, err = s.Dial(ctx, "udp", *flagTo); ctx.Err() != nil {
			log.Fatal(err)
		}
	}
	for buf := make([]byte, 100); ctx.Err() == nil; {
		c.Write([]byte("hello"))
		c.SetReadDeadline(time.Now().Add(time.Second))
		if n, err := c.Read(buf); err == nil {
			event("answered", map[string]any{"said": string(buf[:n])})
			return
		}
	}
	log.Fatal("no answer")
}

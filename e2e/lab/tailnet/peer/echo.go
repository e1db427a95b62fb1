package main

import (
	"context"
	"io"
	"log"
	"net"
	"net/netip"
)

// echo sends back what comes to port 7, by TCP and by UDP, over either family.
func echo(ctx context.Context) {
	s := newServer(*flagHostname, *flagDir)
	defer s.Close()
	up(s)
	ln, err := s.Listen("tcp", ":7")
	if err != nil {
		log.Fatal(err)
	}
	go each(ln, func(c net.Conn) { io.Copy(c, c) })
	v4, v6 := s.TailscaleIPs()
	for _, ip := range []netip.Addr{v4, v6} {
		pc, err := s.ListenPacket("udp", netip.AddrPortFrom(ip, 7).String())
		if err != nil {
			log.Fatal(err)
		}
		go echoDatagrams(pc)
	}
	event("serving", nil)
	<-ctx.Done()
}

func echoDatagrams(pc net.PacketConn) {
	for buf := make([]byte, 2000); ; {
		n, from, err := pc.ReadFrom(buf)
		if err != nil {
			return
		}
		pc.WriteTo(buf[:n], from)
	}
}

// Command gvisor is Go's TCP at the end of a wire: packets on standard input and output, each after its length in
// two bytes (big endian). TCP is set up as tailscale.com/wgengine/netstack does it. It echoes on port 81;
// `gvisor dial BYTES` connects to 100.64.7.1:80 instead, sends that many bytes, wants them back, and says so by
// its exit code.
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"log"
	"math/rand"
	"net/netip"
	"os"
	"strconv"

	"gvisor.dev/gvisor/pkg/buffer"
	"gvisor.dev/gvisor/pkg/tcpip"
	"gvisor.dev/gvisor/pkg/tcpip/adapters/gonet"
	"gvisor.dev/gvisor/pkg/tcpip/header"
	"gvisor.dev/gvisor/pkg/tcpip/link/channel"
	"gvisor.dev/gvisor/pkg/tcpip/network/ipv4"
	"gvisor.dev/gvisor/pkg/tcpip/stack"
	"gvisor.dev/gvisor/pkg/tcpip/transport/tcp"
)

const (
	nic = 1
	mtu = 1280
)

func address(s string, port uint16) tcpip.FullAddress {
	return tcpip.FullAddress{NIC: nic, Addr: tcpip.AddrFrom4(netip.MustParseAddr(s).As4()), Port: port}
}

func newStack() (*stack.Stack, *channel.Endpoint) {
	s := stack.New(stack.Options{
		NetworkProtocols:   []stack.NetworkProtocolFactory{ipv4.NewProtocol},
		TransportProtocols: []stack.TransportProtocolFactory{tcp.NewProtocol},
	})
	sack := tcpip.TCPSACKEnabled(true)
	recovery := tcpip.TCPRecovery(0)
	reno := tcpip.CongestionControlOption("reno")
	receive := tcpip.TCPReceiveBufferSizeRangeOption{Min: tcp.MinBufferSize, Default: tcp.DefaultReceiveBufferSize, Max: 8 << 20}
	send := tcpip.TCPSendBufferSizeRangeOption{Min: tcp.MinBufferSize, Default: tcp.DefaultSendBufferSize, Max: 6 << 20}
	for _, option := range []tcpip.SettableTransportProtocolOption{&sack, &recovery, &reno, &receive, &send} {
		if err := s.SetTransportProtocolOption(tcp.ProtocolNumber, option); err != nil {
			log.Fatal(err)
		}
	}
	link := channel.New(4096, mtu, "")
	if err := s.CreateNIC(nic, link); err != nil {
		log.Fatal(err)
	}
	own := tcpip.ProtocolAddress{
		Protocol:          header.IPv4ProtocolNumber,
		AddressWithPrefix: tcpip.AddrFrom4([4]byte{100, 64, 7, 2}).WithPrefix(),
	}
	if err := s.AddProtocolAddress(nic, own, stack.AddressProperties{}); err != nil {
		log.Fatal(err)
	}
	s.SetRouteTable([]tcpip.Route{{Destination: header.IPv4EmptySubnet, NIC: nic}})
	return s, link
}

func main() {
	s, link := newStack()
	go send(link)
	go receive(link)
	if len(os.Args) == 3 && os.Args[1] == "dial" {
		dial(s)
		return
	}
	listener, err := gonet.ListenTCP(s, address("100.64.7.2", 81), ipv4.ProtocolNumber)
	if err != nil {
		log.Fatal(err)
	}
	for {
		conn, err := listener.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go func() {
			io.Copy(conn, conn)
			conn.Close()
		}()
	}
}

func dial(s *stack.Stack) {
	n, err := strconv.Atoi(os.Args[2])
	if err != nil {
		log.Fatal(err)
	}
	data := make([]byte, n)
	rand.New(rand.NewSource(1)).Read(data)
	conn, err := gonet.DialTCP(s, address("100.64.7.1", 80), ipv4.ProtocolNumber)
	if err != nil {
		log.Fatal(err)
	}
	go func() {
		if _, err := conn.Write(data); err != nil {
			log.Fatal(err)
		}
		conn.CloseWrite()
	}()
	got, err := io.ReadAll(conn)
	if err != nil || !bytes.Equal(got, data) {
		log.Fatalf("%d of %d bytes came back: %v", len(got), n, err)
	}
}

func send(link *channel.Endpoint) {
	out := bufio.NewWriterSize(os.Stdout, 1<<16)
	for {
		packet := link.ReadContext(context.Background())
		for ; packet != nil; packet = link.Read() {
			bytes := packet.ToView().AsSlice()
			out.Write(binary.BigEndian.AppendUint16(nil, uint16(len(bytes))))
			out.Write(bytes)
			packet.DecRef()
		}
		if out.Flush() != nil {
			os.Exit(0)
		}
	}
}

func receive(link *channel.Endpoint) {
	in := bufio.NewReaderSize(os.Stdin, 1<<16)
	for {
		var length [2]byte
		if _, err := io.ReadFull(in, length[:]); err != nil {
			os.Exit(0)
		}
		packet := make([]byte, binary.BigEndian.Uint16(length[:]))
		if _, err := io.ReadFull(in, packet); err != nil {
			os.Exit(0)
		}
		buf := stack.NewPacketBuffer(stack.PacketBufferOptions{Payload: buffer.MakeWithData(packet)})
		link.InjectInbound(header.IPv4ProtocolNumber, buf)
		buf.DecRef()
	}
}

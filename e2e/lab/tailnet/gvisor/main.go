// Command gvisor is Go's TCP at the end of a wire: packets on standard input and output, each after its length in
// two bytes (big endian). TCP is set up as tailscale.com/wgengine/netstack does it. It echoes on port 81, and on port
// 9 it says when it has read everything; `gvisor dial BYTES` connects to 100.64.7.1:80 instead, sends that many bytes,
// wants them back, and says so by its exit code. `gvisor send BYTES` is 100.64.7.1 itself, and sends to port 9.
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"io"
	"log"
	"math/rand"
	"net"
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

func newStack(own string) (*stack.Stack, *channel.Endpoint) {
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
	protocolAddress := tcpip.ProtocolAddress{
		Protocol:          header.IPv4ProtocolNumber,
		AddressWithPrefix: address(own, 0).Addr.WithPrefix(),
	}
	if err := s.AddProtocolAddress(nic, protocolAddress, stack.AddressProperties{}); err != nil {
		log.Fatal(err)
	}
	s.SetRouteTable([]tcpip.Route{{Destination: header.IPv4EmptySubnet, NIC: nic}})
	return s, link
}

func main() {
	own, mode := "100.64.7.2", ""
	if len(os.Args) == 3 {
		mode = os.Args[1]
	}
	if mode == "send" {
		own = "100.64.7.1"
	}
	s, link := newStack(own)
	// Before a packet can come: nobody is refused.
	sink, echo := listen(s, own, 9), listen(s, own, 81)
	go send(link)
	go receive(link)
	switch mode {
	case "dial":
		data, conn := connect(s, address("100.64.7.1", 80))
		exchange(data, data, conn)
	case "send":
		data, conn := connect(s, address("100.64.7.2", 9))
		exchange(data, []byte("."), conn)
	default:
		go serve(sink, func(conn net.Conn) {
			io.Copy(io.Discard, conn)
			io.WriteString(conn, ".")
		})
		serve(echo, func(conn net.Conn) { io.Copy(conn, conn) })
	}
}

func listen(s *stack.Stack, own string, port uint16) net.Listener {
	listener, err := gonet.ListenTCP(s, address(own, port), ipv4.ProtocolNumber)
	if err != nil {
		log.Fatal(err)
	}
	return listener
}

func serve(listener net.Listener, handle func(net.Conn)) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			log.Fatal(err)
		}
		go func() {
			handle(conn)
			conn.Close()
		}()
	}
}

// connect also makes as many bytes as the arguments say.
func connect(s *stack.Stack, to tcpip.FullAddress) ([]byte, *gonet.TCPConn) {
	n, err := strconv.Atoi(os.Args[2])
	if err != nil {
		log.Fatal(err)
	}
	data := make([]byte, n)
	rand.New(rand.NewSource(1)).Read(data)
	conn, err := gonet.DialTCP(s, to, ipv4.ProtocolNumber)
	if err != nil {
		log.Fatal(err)
	}
	return data, conn
}

// exchange sends data and wants an answer.
func exchange(data, want []byte, conn *gonet.TCPConn) {
	go func() {
		if _, err := conn.Write(data); err != nil {
			log.Fatal(err)
		}
		conn.CloseWrite()
	}()
	got, err := io.ReadAll(conn)
	if err != nil || !bytes.Equal(got, want) {
		log.Fatalf("%d of %d bytes came back: %v", len(got), len(want), err)
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

package main

import (
	"context"
	"flag"
	"log"
	"math/rand/v2"
	"os"
	"runtime"
	"time"

	"golang.org/x/sys/unix"
)

var (
	flagFar   = flag.String("far", "", "path: file of the network namespace at the far end")
	flagDelay = flag.Duration("delay", 0, "path: how long each packet is under way")
	flagLoss  = flag.Float64("loss", 0, "path: percentage of packets that are lost")
	flagEarly = flag.Float64("early", 0, "path: percentage of packets that are not delayed and so overtake others")
)

// path carries packets between the tun devices path0 of this namespace and of another one, in both directions alike.
// It does what the kernel's netem does, which not every machine has.
func path(ctx context.Context) {
	near, far := tun(), (*os.File)(nil)
	entered := make(chan struct{})
	go func() {
		runtime.LockOSThread() // for good: this thread is in the other namespace, and ends with the goroutine
		ns, err := os.Open(*flagFar)
		if err != nil {
			log.Fatal(err)
		}
		if err := unix.Setns(int(ns.Fd()), unix.CLONE_NEWNET); err != nil {
			log.Fatalf("cannot enter %s: %v", *flagFar, err)
		}
		far = tun()
		close(entered)
	}()
	<-entered
	go carry(near, far)
	go carry(far, near)
	<-ctx.Done()
}

// tun opens this thread's path0.
func tun() *os.File {
	fd, err := unix.Open("/dev/net/tun", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0)
	if err != nil {
		log.Fatalf("/dev/net/tun: %v", err)
	}
	request, err := unix.NewIfreq("path0")
	if err != nil {
		log.Fatal(err)
	}
	request.SetUint16(unix.IFF_TUN | unix.IFF_NO_PI)
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
		log.Fatalf("path0: %v", err)
	}
	return os.NewFile(uintptr(fd), "path0")
}

// underWay is a packet, and when it arrives.
type underWay struct {
	packet []byte
	at     time.Time
}

func carry(from, to *os.File) {
	delayed := make(chan underWay, 1<<15) // what finds no room is lost, as in any router
	go func() {
		for next := range delayed {
			sleepUntil(next.at)
			to.Write(next.packet)
		}
	}()
	chance := func(percent float64) bool { return percent > 0 && rand.Float64()*100 < percent }
	buf := make([]byte, 1<<16)
	for {
		n, err := from.Read(buf)
		if err != nil {
			log.Fatal(err)
		}
		switch {
		case chance(*flagLoss):
		case *flagDelay == 0, chance(*flagEarly):
			to.Write(buf[:n])
		default:
			packet := append([]byte(nil), buf[:n]...)
			select {
			case delayed <- underWay{packet, time.Now().Add(*flagDelay)}:
			default:
			}
		}
	}
}

// sleepUntil is more exact than Go's timers, which may be a millisecond late.
func sleepUntil(at time.Time) {
	if wait := time.Until(at); wait > 0 {
		left := unix.NsecToTimespec(wait.Nanoseconds())
		unix.Nanosleep(&left, nil)
	}
}

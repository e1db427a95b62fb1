//! Against Linux's own TCP, behind a tun device in a network namespace of its own.

use std::{
    cmp::Reverse,
    collections::BinaryHeap,
    io::{Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    os::fd::AsRawFd,
    process::Command,
    thread,
};

use smoltcp::phy::{self, Device, Medium, RxToken, TunTapInterface, TxToken};

use super::*;
use crate::netstack::packet::{Header, Segment};

/// Says that the process is in the namespace.
const INSIDE: &str = "POSTERN_TCP_INSIDE";
const OURS: [u8; 4] = [100, 64, 7, 1];
const THEIRS: [u8; 4] = [100, 64, 7, 2];
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(120);

/// What the path between the two does to packets, in both directions.
#[derive(Clone, Copy)]
struct Weather {
    delay: Duration,
    /// Of 1,000 packets so many are lost, or come this much later.
    loss: u32,
    late: u32,
}

const FAIR: Weather = Weather {
    delay: Duration::ZERO,
    loss: 0,
    late: 0,
};
const FOUL: Weather = Weather {
    delay: Duration::from_millis(5),
    loss: 15,
    late: 50,
};

/// When a packet arrives, its number, and whether it comes to us.
type UnderWay = (Instant, u64, bool, Vec<u8>);

/// A machine of ours at the end of a wire to Linux.
struct Wire {
    tun: TunTapInterface,
    tcp: Option<Tcp>,
    weather: Weather,
    start: std::time::Instant,
    random: fastrand::Rng,
    under_way: BinaryHeap<Reverse<UnderWay>>,
    count: u64,
}

/// Runs `test`, which is called `name`, in a namespace of its own, where it makes the wire.
fn isolated(name: &str, weather: Weather, test: impl FnOnce(Wire)) {
    if std::env::var_os(INSIDE).is_none() {
        let this = std::env::current_exe().unwrap();
        let path = format!("netstack::tcp::tests::linux::{name}");
        let mut inside = Command::new("unshare");
        inside
            .args(["--user", "--map-root-user", "--net", "--kill-child", "--"])
            .arg(this);
        inside.args(["--exact", &path, "--nocapture"]).env(INSIDE, "1");
        let output = inside.output().expect("unshare (util-linux) is needed");
        print!("{}", String::from_utf8_lossy(&output.stdout));
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        return;
    }
    for command in [
        "ip link set lo up",
        "ip tuntap add dev wire mode tun",
        "ip addr add 100.64.7.2/24 dev wire",
        "ip link set dev wire mtu 1280 up",
    ] {
        let mut words = command.split(' ');
        let done = Command::new(words.next().unwrap()).args(words).status();
        assert!(done.expect("ip (iproute2) is needed").success(), "{command}");
    }
    test(Wire {
        tun: TunTapInterface::new("wire", Medium::Ip).expect("/dev/net/tun is needed"),
        tcp: None,
        weather,
        start: std::time::Instant::now(),
        random: fastrand::Rng::with_seed(1),
        under_way: BinaryHeap::new(),
        count: 0,
    });
}

impl Wire {
    fn now(&self) -> Instant {
        Instant::from_micros(self.start.elapsed().as_micros() as i64)
    }

    fn dial(&mut self, to: SocketAddr) {
        let key = FlowKey {
            local: (OURS, 40_000).into(),
            remote: to,
        };
        self.tcp = Tcp::connecting(&key, ample(), self.now(), fastrand::u64(..));
    }

    fn carry(&mut self, inwards: bool, packet: Vec<u8>) {
        if self.random.u32(..1000) < self.weather.loss {
            return;
        }
        let late = self.random.u32(..1000) < self.weather.late;
        let at = self.now()
            + self.weather.delay
            + if late {
                self.weather.delay / 2
            } else {
                Duration::ZERO
            };
        self.count += 1;
        self.under_way.push(Reverse((at, self.count, inwards, packet)));
    }

    fn arrive(&mut self, packet: &[u8], out: &mut Vec<BytesMut>) {
        let Some(header) =
            Header::parse(packet).filter(|header| header.proto == crate::netstack::packet::TCP)
        else {
            return;
        };
        let segment = Segment::parse(&packet[header.payload.clone()]).unwrap();
        let (key, now) = (header.flow(&segment), self.now());
        if self.tcp.is_none() && segment.is_opening() {
            self.tcp = Tcp::listening(&key, ample(), now, fastrand::u64(..));
        }
        match &mut self.tcp {
            Some(tcp) if tcp.key == key => tcp.ingress(now, packet, out),
            _ => out.extend(refusal(&key, packet)),
        }
    }

    /// Carries packets until `act` says that it is done.
    fn run(&mut self, mut act: impl FnMut(&mut Tcp) -> bool) {
        loop {
            assert!(self.start.elapsed() < PATIENCE, "it takes too long");
            let mut out = Vec::new();
            while let Some((packet, _)) = self.tun.receive(self.now()) {
                let packet = packet.consume(<[u8]>::to_vec);
                self.carry(true, packet);
            }
            let now = self.now();
            while let Some(Reverse((at, ..))) = self.under_way.peek()
                && *at <= now
                && let Some(Reverse((_, _, inwards, packet))) = self.under_way.pop()
            {
                if inwards {
                    self.arrive(&packet, &mut out);
                } else if let Some(token) = self.tun.transmit(now) {
                    // Without WireGuard's padding.
                    let len = Header::parse(&packet).unwrap().payload.end;
                    token.consume(len, |buffer| buffer.copy_from_slice(&packet[..len]));
                }
            }
            let mut done = false;
            if let Some(tcp) = &mut self.tcp {
                done = act(tcp);
                tcp.egress(now, &mut out);
            }
            for packet in out {
                self.carry(false, packet.to_vec());
            }
            if done {
                return;
            }
            let timer = self.tcp.as_ref().and_then(Tcp::poll_at);
            let arrival = self.under_way.peek().map(|Reverse((at, ..))| *at);
            let next = [timer, arrival].into_iter().flatten().min();
            let wait = next.map_or(Duration::from_millis(50), |next| {
                if next > now { next - now } else { Duration::ZERO }
            });
            phy::wait(self.tun.as_raw_fd(), Some(wait)).unwrap();
        }
    }

    /// Sends back what comes, then closes its half, until the end.
    fn echo(&mut self) {
        let mut pending = Vec::new();
        self.run(|tcp| {
            if pending.is_empty() {
                let read = tcp.read(|bytes| {
                    pending.extend_from_slice(bytes);
                    bytes.len()
                });
                if read == Read::Eof {
                    tcp.close();
                }
            }
            let written = tcp.write(&pending);
            pending.drain(..written);
            tcp.is_over() || tcp.state == State::TimeWait
        });
    }
}

/// Linux connects, sends everything while it reads everything back.
fn linux_client(bytes: usize) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let stream = TcpStream::connect((std::net::Ipv4Addr::from(OURS), 80)).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let data = pattern(bytes, 4);
        let mut got = Vec::new();
        thread::scope(|scope| {
            scope.spawn(|| {
                (&stream).write_all(&data).unwrap();
                stream.shutdown(Shutdown::Write).unwrap();
            });
            (&stream).read_to_end(&mut got).unwrap();
        });
        assert!(got == data, "{} of {} bytes", got.len(), data.len());
    })
}

#[test]
fn linux_connects_and_gets_everything_back() {
    isolated("linux_connects_and_gets_everything_back", FAIR, |mut wire| {
        let client = linux_client(8 << 20);
        wire.echo();
        client.join().unwrap();
    });
}

#[test]
fn linux_gets_everything_back_over_a_lossy_path() {
    isolated(
        "linux_gets_everything_back_over_a_lossy_path",
        FOUL,
        |mut wire| {
            let client = linux_client(2 << 20);
            wire.echo();
            client.join().unwrap();
        },
    );
}

#[test]
fn linux_accepts_reads_slowly_and_answers_after_our_end() {
    let name = "linux_accepts_reads_slowly_and_answers_after_our_end";
    isolated(
        name,
        Weather {
            delay: Duration::from_millis(1),
            ..FAIR
        },
        |mut wire| {
            let listener = TcpListener::bind((std::net::Ipv4Addr::from(THEIRS), 81)).unwrap();
            let to = listener.local_addr().unwrap();
            let data = pattern(3 << 20, 5);
            let expected = data.clone();
            let (closed, may_read) = std::sync::mpsc::channel();
            let server = thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                // Until the window is closed.
                may_read.recv().unwrap();
                let mut got = Vec::new();
                stream.read_to_end(&mut got).unwrap();
                assert!(got == expected);
                stream.write_all(&got[..100_000]).unwrap();
            });
            wire.dial(to);
            let (mut written, mut got, mut eof) = (0, Vec::new(), false);
            let mut stalled = None;
            wire.run(|tcp| {
                written += tcp.write(&data[written..]);
                if written == data.len() && tcp.may_send() {
                    tcp.close();
                }
                // Nothing moves any more: the window is closed.
                let left = tcp.send_queue();
                match stalled {
                    Some((since, before)) if before == left && tcp.is_synchronized() => {
                        let since: std::time::Instant = since;
                        if since.elapsed().as_millis() > 700 {
                            let _ = closed.send(());
                        }
                    }
                    _ => stalled = Some((std::time::Instant::now(), left)),
                }
                let read = tcp.read(|bytes| {
                    got.extend_from_slice(bytes);
                    bytes.len()
                });
                eof |= read == Read::Eof;
                eof && matches!(tcp.state, State::TimeWait | State::Closed)
            });
            server.join().unwrap();
            assert!(got == data[..100_000]);
        },
    );
}

#[test]
fn linux_refuses_and_is_refused() {
    isolated("linux_refuses_and_is_refused", FAIR, |mut wire| {
        wire.dial((THEIRS, 82).into());
        wire.run(|tcp| tcp.is_over());
        assert_eq!(wire.tcp.take().unwrap().read(|_| 0), Read::Reset);
        // Our end aborts.
        let client = thread::spawn(|| {
            let mut stream = TcpStream::connect((std::net::Ipv4Addr::from(OURS), 80)).unwrap();
            stream.write_all(b"hello").unwrap();
            stream.read(&mut [0; 1]).unwrap_err().kind()
        });
        wire.run(|tcp| {
            if tcp.has_unread() {
                tcp.abort();
            }
            client.is_finished()
        });
        assert_eq!(client.join().unwrap(), std::io::ErrorKind::ConnectionReset);
    });
}

#[test]
fn we_are_no_slower_than_linux_with_reno_over_a_lossy_path() {
    let name = "we_are_no_slower_than_linux_with_reno_over_a_lossy_path";
    isolated(
        name,
        Weather {
            delay: Duration::from_millis(5),
            loss: 10,
            late: 0,
        },
        |mut wire| {
            std::fs::write("/proc/sys/net/ipv4/tcp_congestion_control", "reno").unwrap();
            const BYTES: usize = 3 << 20;
            let mut rate = [0.0; 2];
            let listener = TcpListener::bind((std::net::Ipv4Addr::from(THEIRS), 81)).unwrap();
            let to = listener.local_addr().unwrap();
            let linux = thread::spawn(move || {
                let (mut stream, _) = listener.accept().unwrap();
                let mut got = Vec::new();
                stream.read_to_end(&mut got).unwrap();
                assert_eq!(got.len(), BYTES);
                stream.write_all(&got).unwrap();
            });
            let data = pattern(BYTES, 6);
            wire.dial(to);
            let mut written = 0;
            let begin = std::time::Instant::now();
            wire.run(|tcp| {
                written += tcp.write(&data[written..]);
                if written == BYTES && tcp.may_send() {
                    tcp.close();
                }
                tcp.state == State::FinWait2
            });
            rate[0] = 3.0 / begin.elapsed().as_secs_f64();
            let (begin, mut got) = (std::time::Instant::now(), 0);
            wire.run(|tcp| {
                if let Read::Data(n) = tcp.read(|bytes| bytes.len()) {
                    got += n;
                }
                got == BYTES
            });
            rate[1] = 3.0 / begin.elapsed().as_secs_f64();
            linux.join().unwrap();
            println!(
                "MiB/s at 1 % loss and 10 ms: we {:.2}, Linux {:.2}",
                rate[0], rate[1]
            );
            assert!(rate[0] > 0.6 * rate[1], "{rate:?}");
        },
    );
}

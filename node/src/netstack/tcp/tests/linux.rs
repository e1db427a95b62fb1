//! Against Linux's own TCP, behind a tun device in a network namespace of its own.

use std::{
    io::{Read as _, Write as _},
    net::{Shutdown, TcpListener, TcpStream},
    os::fd::AsRawFd,
    process::Command,
    thread,
};

use smoltcp::phy::{self, Device, Medium, RxToken, TunTapInterface, TxToken};

use super::{
    wire::{FAIR, FOUL, Link, OURS, PATIENCE, THEIRS, Weather, Wire},
    *,
};

/// Says that the process is in the namespace.
const INSIDE: &str = "POSTERN_TCP_INSIDE";

impl Link for TunTapInterface {
    fn receive(&mut self) -> Option<Vec<u8>> {
        let (packet, _) = Device::receive(self, Instant::ZERO)?;
        Some(packet.consume(<[u8]>::to_vec))
    }

    fn send(&mut self, packet: &[u8]) {
        if let Some(token) = self.transmit(Instant::ZERO) {
            token.consume(packet.len(), |buffer| buffer.copy_from_slice(packet));
        }
    }

    fn wait(&mut self, most: Duration) {
        phy::wait(self.as_raw_fd(), Some(most)).unwrap();
    }
}

/// Runs `test`, which is called `name`, in a namespace of its own, where it makes the wire.
fn isolated(name: &str, weather: Weather, test: impl FnOnce(Wire<TunTapInterface>)) {
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
    let tun = TunTapInterface::new("wire", Medium::Ip).expect("/dev/net/tun is needed");
    test(Wire::new(tun, weather));
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
fn linux_without_options_gets_everything_back_over_a_long_path() {
    let slow = Weather {
        delay: Duration::from_millis(75),
        ..FAIR
    };
    isolated(
        "linux_without_options_gets_everything_back_over_a_long_path",
        slow,
        |mut wire| {
            for option in ["tcp_window_scaling", "tcp_sack", "tcp_timestamps"] {
                std::fs::write(format!("/proc/sys/net/ipv4/{option}"), "0").unwrap();
            }
            let client = linux_client(1 << 20);
            wire.echo();
            client.join().unwrap();
        },
    );
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
fn we_keep_up_with_linux_over_a_lossy_path() {
    let name = "we_keep_up_with_linux_over_a_lossy_path";
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
            // Which segments are lost is chance, and a few decide a run: virtual time is where rates are exact.
            assert!(rate[0] > rate[1] / 3.0, "{rate:?}");
        },
    );
}

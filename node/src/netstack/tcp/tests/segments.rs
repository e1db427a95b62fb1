//! The state machine, segment by segment (RFC 9293 §3.10, RFC 5961).

use smoltcp::wire::{
    TcpControl::{Fin, None as Plain, Psh, Rst, Syn},
    TcpSeqNumber,
};

use super::{
    egress::SILENCE_TIMEOUT,
    segment::{bare, emit},
    *,
};

/// The other side's initial sequence number: it wraps soon.
const THEIR: u32 = 0xffff_ff00;
const OUR: u32 = 0xffff_fff0;

/// A machine under test, and somebody who makes segments by hand. Numbers are relative: the SYNs are at 0.
struct Bench {
    tcp: Tcp,
    now: Instant,
}

/// A segment that came out: what it is, position, acknowledged position (-1: none), bytes of data.
type Seen = (TcpControl, u64, i64, usize);

impl Bench {
    fn listening() -> Self {
        let now = Instant::from_secs(1);
        let tcp = Tcp::listening(&sim::keys()[1], ample(), now, OUR.into()).unwrap();
        Self { tcp, now }
    }

    fn connecting() -> Self {
        let now = Instant::from_secs(1);
        let tcp = Tcp::connecting(&sim::keys()[1], ample(), now, OUR.into()).unwrap();
        Self { tcp, now }
    }

    fn established() -> Self {
        let mut bench = Self::listening();
        assert_eq!(bench.send(Syn, 0, None, b""), [(Syn, 0, 1, 0)]);
        assert_eq!(bench.send(Plain, 1, Some(1), b""), []);
        assert_eq!(bench.tcp.state, State::Established);
        bench
    }

    fn segment<'a>(&self, control: TcpControl, seq: u64, ack: Option<u64>, data: &'a [u8]) -> TcpRepr<'a> {
        let ack = ack.map(|ack| OUR.wrapping_add(ack as u32));
        let mut segment = bare(&sim::keys()[0], control, THEIR.wrapping_add(seq as u32), ack);
        segment.window_len = 50_000;
        if control == Syn {
            segment.sack_permitted = true;
            segment.max_seg_size = Some(1000);
        }
        segment.payload = data;
        segment
    }

    fn put(&mut self, segment: &TcpRepr<'_>) -> Vec<Seen> {
        let mut out = self.take(segment);
        self.tcp.egress(self.now, &mut out);
        out.iter().map(|packet| self.seen(packet)).collect()
    }

    /// A segment in, of which the machine says nothing yet.
    fn take(&mut self, segment: &TcpRepr<'_>) -> Vec<BytesMut> {
        let [from, _] = sim::keys();
        let header = TcpRepr {
            payload: &[],
            ..*segment
        };
        let packet = emit(from.local.ip(), from.remote.ip(), &header, [segment.payload, &[]]);
        let mut out = Vec::new();
        self.tcp.ingress(self.now, &packet, &mut out);
        out
    }

    /// A segment in, what is answered out.
    fn send(&mut self, control: TcpControl, seq: u64, ack: Option<u64>, data: &[u8]) -> Vec<Seen> {
        self.put(&self.segment(control, seq, ack, data))
    }

    fn seen(&self, packet: &[u8]) -> Seen {
        let segment = parse(packet).unwrap();
        let relative = |number: TcpSeqNumber, origin: u32| (number.0 as u32).wrapping_sub(origin);
        let ack = segment
            .ack_number
            .map_or(-1, |ack| i64::from(relative(ack, THEIR)));
        let seq = u64::from(relative(segment.seq_number, OUR));
        (segment.control, seq, ack, segment.payload.len())
    }

    fn emitted(&mut self) -> Vec<Seen> {
        let mut out = Vec::new();
        self.tcp.egress(self.now, &mut out);
        out.iter().map(|packet| self.seen(packet)).collect()
    }

    /// Goes on to the next timer.
    fn wait(&mut self) -> Vec<Seen> {
        self.now = self.now.max(self.tcp.poll_at().unwrap());
        self.emitted()
    }

    fn wait_ms(&mut self, ms: u64) -> Vec<Seen> {
        self.now += Duration::from_millis(ms);
        self.emitted()
    }

    fn read(&mut self) -> Vec<u8> {
        let mut got = Vec::new();
        self.tcp.read(|bytes| {
            got.extend_from_slice(bytes);
            bytes.len()
        });
        got
    }
}

#[test]
fn a_listener_answers_nothing_but_a_syn() {
    let mut bench = Bench::listening();
    assert_eq!(bench.send(Rst, 0, None, b""), []);
    assert_eq!(bench.send(Plain, 0, Some(7), b""), [(Rst, 7, -1, 0)]);
    assert!(bench.tcp.is_over());
    assert_eq!(bench.send(Syn, 0, None, b""), [(Syn, 0, 1, 0)]);
    assert!(!bench.tcp.is_over() && !bench.tcp.is_synchronized());
    // Our answer got lost, or theirs.
    assert_eq!(bench.send(Syn, 0, None, b""), [(Syn, 0, 1, 0)]);
    assert_eq!(
        bench.send(Plain, 1, Some(2), b""),
        [(Rst, 2, -1, 0)],
        "of what we never sent"
    );
    assert_eq!(bench.send(Psh, 1, Some(1), b"hello"), []);
    assert!(bench.tcp.is_synchronized());
    assert_eq!(bench.wait(), [(Plain, 1, 6, 0)]);
    assert_eq!(bench.read(), b"hello");
}

#[test]
fn a_reset_takes_a_handshake_back() {
    let mut bench = Bench::listening();
    bench.send(Syn, 0, None, b"");
    assert_eq!(bench.send(Rst, 1, None, b""), []);
    assert!(bench.tcp.is_over());
}

#[test]
fn a_connection_is_opened_and_refused() {
    let mut bench = Bench::connecting();
    assert_eq!(bench.emitted(), [(Syn, 0, -1, 0)]);
    assert_eq!(
        bench.send(Syn, 0, Some(7), b""),
        [(Rst, 7, -1, 0)],
        "an answer to somebody else"
    );
    assert_eq!(bench.send(Rst, 0, None, b""), [], "nor does this concern us");
    assert_eq!(bench.send(Syn, 0, Some(1), b""), [(Plain, 1, 1, 0)]);
    assert!(bench.tcp.may_send());

    let mut bench = Bench::connecting();
    bench.emitted();
    assert_eq!(bench.send(Rst, 0, Some(1), b""), []);
    assert!(bench.tcp.is_over());
}

#[test]
fn both_sides_may_connect_at_once() {
    let mut bench = Bench::connecting();
    bench.emitted();
    assert_eq!(bench.send(Syn, 0, None, b""), [(Syn, 0, 1, 0)]);
    assert!(!bench.tcp.is_synchronized());
    assert_eq!(bench.send(Plain, 1, Some(1), b""), []);
    assert!(bench.tcp.may_send());
}

#[test]
fn two_that_connect_to_each_other_become_one_connection() {
    let now = Instant::from_secs(1);
    let mut ends = sim::keys().map(|key| Tcp::connecting(&key, ample(), now, OUR.into()).unwrap());
    for _ in 0..4 {
        let [first, second] = ends.each_mut().map(|end| {
            let mut out = Vec::new();
            end.egress(now, &mut out);
            out
        });
        let [a, b] = &mut ends;
        for (end, packets) in [(a, second), (b, first)] {
            for packet in packets {
                let mut out = Vec::new();
                end.ingress(now, &packet, &mut out);
                assert!(out.is_empty());
            }
        }
    }
    for end in &mut ends {
        assert!(end.may_send());
        let mut out = Vec::new();
        end.egress(now, &mut out);
        assert_eq!(out.len(), 0, "and it is quiet then");
    }
}

/// Somebody without window scaling whose round trip seems to be long sends to a reader who keeps up.
#[test]
fn a_window_that_cannot_be_scaled_ends_at_64_kib() {
    let mut bench = Bench::listening();
    bench.send(Syn, 0, None, b"");
    bench.now += Duration::from_millis(900);
    assert_eq!(bench.send(Plain, 1, Some(1), b""), []);
    let data = [7; 1000];
    let mut at = 1;
    while at < 4 << 20 {
        let answers = bench.send(Plain, at, Some(1), &data);
        assert!(answers.len() <= 2, "{} answers at {at}", answers.len());
        at += 1000;
        bench.now += Duration::from_micros(100);
        bench.tcp.read(<[u8]>::len);
    }
    assert!(bench.tcp.receiver.next() == at);
}

#[test]
fn of_a_segment_that_is_too_large_only_what_was_asked_for_is_taken() {
    let mut bench = Bench::established();
    assert_eq!(bench.send(Fin, 1, Some(1), &[7; 10_000]), [(Plain, 1, 1241, 0)]);
    assert_eq!(bench.send(Fin, 1241, Some(1), &[7; 1000]), [(Plain, 1, 2242, 0)]);
    assert_eq!(bench.tcp.state, State::CloseWait);
}

#[test]
fn a_handshake_is_repeated_and_given_up() {
    let mut bench = Bench::listening();
    bench.send(Syn, 0, None, b"");
    let mut sent = 0;
    while !bench.tcp.is_over() {
        sent += bench.wait().len();
    }
    assert_eq!(
        (sent, bench.now),
        (3, Instant::from_secs(13)),
        "after 1, 3 and 7 s"
    );
}

#[test]
fn resets_must_be_exact() {
    for (seq, ends, answered) in [
        (1, true, 0),
        (2, false, 1),
        (10_000, false, 1),
        (1 << 22, false, 0),
    ] {
        let mut bench = Bench::established();
        assert_eq!(bench.send(Rst, seq, None, b"").len(), answered, "{seq}");
        assert_eq!(bench.tcp.is_over(), ends, "{seq}");
        assert_eq!(
            bench.tcp.read(|_| 0),
            if ends { Read::Reset } else { Read::Empty }
        );
    }
}

#[test]
fn a_syn_within_a_connection_is_challenged_and_not_without_end() {
    let mut bench = Bench::established();
    let answers: usize = (0..50).map(|i| bench.send(Syn, i * 1000, None, b"").len()).sum();
    assert_eq!(answers, MAX_CHALLENGES as usize);
    assert!(bench.tcp.may_send());
    bench.now += Duration::from_secs(1);
    assert_eq!(bench.send(Syn, 0, None, b""), [(Plain, 1, 1, 0)]);
}

#[test]
fn acknowledgements_of_the_future_and_the_far_past_are_challenged() {
    let mut bench = Bench::established();
    assert_eq!(bench.send(Plain, 1, Some(2), b"x"), [(Plain, 1, 1, 0)]);
    assert_eq!(bench.send(Plain, 1, Some(1 << 31), b"x"), [(Plain, 1, 1, 0)]);
    assert!(bench.read().is_empty(), "their data does not count either");
}

#[test]
fn each_side_closes_its_half() {
    // They close first.
    let mut bench = Bench::established();
    assert_eq!(bench.send(Fin, 1, Some(1), b"bye"), [(Plain, 1, 5, 0)]);
    assert_eq!(
        (bench.read(), bench.tcp.read(|_| 0)),
        (b"bye".to_vec(), Read::Eof)
    );
    assert_eq!(bench.tcp.write(b"answer"), 6);
    bench.tcp.close();
    assert_eq!(bench.tcp.write(b"more"), 0);
    assert_eq!(bench.emitted(), [(Fin, 1, 5, 6)]);
    assert_eq!(bench.tcp.state, State::LastAck);
    assert_eq!(bench.send(Plain, 5, Some(8), b""), []);
    assert!(bench.tcp.is_over());

    // We close first.
    let mut bench = Bench::established();
    bench.tcp.close();
    assert_eq!(bench.emitted(), [(Fin, 1, 1, 0)]);
    assert_eq!(bench.send(Plain, 1, Some(2), b""), []);
    assert_eq!(bench.tcp.state, State::FinWait2);
    bench.send(Psh, 1, Some(2), b"still here");
    assert_eq!(bench.read(), b"still here");
    assert_eq!(bench.send(Fin, 11, Some(2), b""), [(Plain, 2, 12, 0)]);
    assert_eq!(
        (bench.tcp.state, bench.tcp.read(|_| 0)),
        (State::TimeWait, Read::Eof)
    );
    // Our last ACK got lost: the end is remembered for a while.
    bench.now += Duration::from_secs(1);
    assert_eq!(bench.send(Fin, 11, Some(2), b""), [(Plain, 2, 12, 0)]);
    assert_eq!((bench.wait_ms(1900), bench.tcp.is_over()), (vec![], false));
    assert_eq!((bench.wait(), bench.tcp.is_over()), (vec![], true));
    assert_eq!(bench.tcp.read(|_| 0), Read::Eof);

    // Both at once.
    let mut bench = Bench::established();
    bench.tcp.close();
    bench.emitted();
    assert_eq!(bench.send(Fin, 1, Some(1), b""), [(Plain, 2, 2, 0)]);
    assert_eq!(bench.tcp.state, State::Closing);
    bench.send(Plain, 2, Some(2), b"");
    assert_eq!(bench.tcp.state, State::TimeWait);
}

#[test]
fn nothing_stands_behind_a_fin() {
    let mut bench = Bench::established();
    assert_eq!(bench.send(Fin, 4, Some(1), b"def").len(), 1);
    assert_eq!(bench.send(Psh, 8, Some(1), b"more").len(), 1);
    assert_eq!(bench.send(Psh, 1, Some(1), b"abcdefmore"), [(Plain, 1, 8, 0)]);
    assert_eq!(
        (bench.read(), bench.tcp.read(|_| 0)),
        (b"abcdef".to_vec(), Read::Eof)
    );
}

#[test]
fn an_abort_says_so() {
    let mut bench = Bench::established();
    bench.tcp.abort();
    assert_eq!(bench.emitted(), [(Rst, 1, 1, 0)]);
    assert_eq!(bench.emitted(), []);
    assert_eq!(bench.send(Psh, 1, Some(1), b"x"), [(Rst, 1, -1, 0)]);
}

#[test]
fn pieces_are_put_together() {
    let data = pattern(60, 3);
    let mut bench = Bench::established();
    let report = |bench: &mut Bench| bench.tcp.receiver.report().map(|block| block.unwrap_or_default());
    for (start, end) in [(10, 20), (30, 40), (50, 60), (15, 35), (5, 12)] {
        let mut segment = bench.segment(Plain, 1 + start as u64, Some(1), &data[start..end]);
        segment.window_len = 1000;
        assert_eq!(bench.put(&segment), [(Plain, 1, 1, 0)]);
    }
    assert_eq!(report(&mut bench), [(6, 41), (51, 61), (0, 0)]);
    // Known already.
    bench.send(Plain, 21, Some(1), &data[20..25]);
    assert_eq!(bench.read(), b"");
    assert_eq!(bench.send(Plain, 1, Some(1), &data[..7]), [(Plain, 1, 41, 0)]);
    assert_eq!(bench.send(Plain, 41, Some(1), &data[40..50]), [(Plain, 1, 61, 0)]);
    assert_eq!(bench.read(), data);
}

#[test]
fn reports_name_the_latest_first_and_what_came_twice_before_it() {
    let mut bench = Bench::established();
    let mut reports = Vec::new();
    for start in [11, 31, 51, 71, 31, 1] {
        let [from, _] = sim::keys();
        let segment = bench.segment(Plain, start, Some(1), b"");
        let packet = emit(from.local.ip(), from.remote.ip(), &segment, [&[7; 10], &[]]);
        let mut out = Vec::new();
        bench.tcp.ingress(bench.now, &packet, &mut out);
        bench.tcp.egress(bench.now, &mut out);
        let answer = parse(&out[0]).unwrap();
        let relative = |(a, b): (u32, u32)| (a.wrapping_sub(THEIR), b.wrapping_sub(THEIR));
        reports.push(answer.sack_ranges.map(|range| range.map(relative)));
    }
    let some = Some::<(u32, u32)>;
    assert_eq!(
        reports,
        [
            [some((11, 21)), None, None],
            [some((31, 41)), some((11, 21)), None],
            [some((51, 61)), some((31, 41)), some((11, 21))],
            [some((71, 81)), some((51, 61)), some((31, 41))],
            [some((31, 41)), some((71, 81)), some((51, 61))],
            [some((71, 81)), some((51, 61)), some((31, 41))],
        ]
    );
}

#[test]
fn acks_wait_for_data_or_a_second_segment() {
    let mut bench = Bench::established();
    let full = pattern(1000, 1);
    assert_eq!(bench.send(Plain, 1, Some(1), &full), []);
    assert_eq!(bench.send(Plain, 1001, Some(1), &full), [(Plain, 1, 2001, 0)]);
    assert_eq!(bench.send(Plain, 2001, Some(1), &full), []);
    bench.tcp.write(b"travels along");
    assert_eq!(bench.emitted(), [(Psh, 1, 3001, 13)]);
    assert_eq!(bench.send(Psh, 3001, Some(14), b"x"), []);
    let before = bench.now;
    assert_eq!(bench.wait(), [(Plain, 14, 3002, 0)]);
    assert_eq!(bench.now - before, Duration::from_millis(10));
    bench.tcp.ack_at_once();
    assert_eq!(bench.send(Psh, 3002, Some(14), b"x"), [(Plain, 14, 3003, 0)]);
}

#[test]
fn a_closed_window_is_asked_until_it_opens() {
    let mut bench = Bench::established();
    let mut closed = bench.segment(Plain, 1, Some(1), b"");
    closed.window_len = 0;
    assert_eq!(bench.put(&closed), []);
    bench.tcp.write(b"hello");
    assert_eq!(bench.emitted(), []);
    let mut waits = Vec::new();
    for _ in 0..12 {
        let before = bench.now;
        assert_eq!(bench.wait(), [(Plain, 0, 1, 0)]);
        waits.push((bench.now - before).total_millis() / 100);
        bench.put(&closed);
    }
    assert!(
        waits.is_sorted() && waits[0] <= 10 && waits[11] == 600,
        "{waits:?}"
    );
    assert!(bench.tcp.may_send(), "it answers, so it is there");
    let open = bench.segment(Plain, 1, Some(1), b"");
    assert_eq!(bench.put(&open), [(Psh, 1, 1, 5)]);
}

#[test]
fn an_ack_that_was_overtaken_does_not_take_the_window_back() {
    let mut bench = Bench::established();
    let mut older = bench.segment(Plain, 1, Some(1), b"");
    older.window_len = 1000;
    assert_eq!(bench.put(&older), []);
    bench.tcp.write(&pattern(5000, 1));
    assert_eq!(bench.emitted().len(), 5);
    bench.tcp.write(&pattern(1000, 1));
    assert_eq!(bench.emitted(), [(Psh, 5001, 1, 1000)]);
}

#[test]
fn acks_stay_in_a_window_that_shrinks() {
    let mut bench = Bench::established();
    bench.tcp.write(&pattern(5000, 1));
    assert_eq!(bench.emitted().len(), 5);
    let mut shrunk = bench.segment(Plain, 1, Some(1001), b"");
    shrunk.window_len = 2000;
    assert_eq!(bench.put(&shrunk), []);
    bench.tcp.ack_at_once();
    shrunk.payload = b"x";
    assert_eq!(bench.put(&shrunk), [(Plain, 3001, 2, 0)]);
}

#[test]
fn disorder_that_is_over_in_less_than_a_round_trip_costs_nothing() {
    for again in [false, true] {
        let mut bench = Bench::listening();
        bench.send(Syn, 0, None, b"");
        bench.now += Duration::from_millis(20);
        bench.send(Plain, 1, Some(1), b"");
        bench.tcp.write(&pattern(10_000, 1));
        assert_eq!(bench.emitted().len(), 10);
        bench.now += Duration::from_millis(20);
        let window = bench.tcp.sender.congestion_window();
        // Go hands its first segments to a connection that has just been accepted in disorder.
        for until in [2001, 3001, 4001, 5001] {
            let mut report = bench.segment(Plain, 1, Some(1), b"");
            report.sack_ranges[0] = Some((OUR.wrapping_add(1001), OUR.wrapping_add(until)));
            assert!(bench.take(&report).is_empty());
        }
        assert!(bench.tcp.sender.congestion_window() < window);
        if again {
            assert_eq!(bench.emitted(), [(Plain, 1, 1, 1000)]);
            bench.now += Duration::from_millis(1);
        }
        let whole = bench.segment(Plain, 1, Some(10_001), b"");
        assert_eq!(bench.put(&whole), []);
        assert!(bench.tcp.sender.congestion_window() > window);
    }
}

#[test]
fn no_silly_segments_are_sent() {
    let mut bench = Bench::established();
    bench.tcp.write(&pattern(3000, 1));
    assert_eq!(
        bench.emitted(),
        [(Plain, 1, 1, 1000), (Plain, 1001, 1, 1000), (Psh, 2001, 1, 1000)]
    );
    bench.tcp.write(&pattern(3000, 1));
    let mut tight = bench.segment(Plain, 1, Some(3001), b"");
    tight.window_len = 10;
    assert_eq!(bench.put(&tight), [], "ten bytes are not worth it");
    assert_eq!(
        bench.wait(),
        [(Plain, 3001, 1, 10)],
        "but better than nothing for ever"
    );
    tight.ack_number = Some(TcpSeqNumber(OUR.wrapping_add(3011) as i32));
    tight.window_len = 1500;
    assert_eq!(bench.put(&tight), [(Plain, 3011, 1, 1000)]);
}

#[test]
fn our_window_opens_by_steps_that_are_worth_it() {
    let mut bench = Bench::established();
    let (mut seq, full) = (1, pattern(1000, 1));
    while bench.tcp.receiver.accepts(seq + 999, seq + 999) {
        let answers = bench.send(Plain, seq, Some(1), &full);
        seq += 1000;
        assert!(answers.len() <= 1);
    }
    bench.wait();
    let one = |tcp: &mut Tcp| tcp.read(|bytes| bytes.len().min(1));
    for _ in 0..500 {
        assert_eq!(one(&mut bench.tcp), Read::Data(1));
        assert_eq!(bench.emitted(), [], "not for a byte");
    }
    let room = seq - 1 - bench.read().len() as u64 - 500;
    assert_eq!(room, 0);
    assert_eq!(bench.emitted(), [(Plain, 1, seq as i64, 0)]);
}

#[test]
fn who_is_silent_is_asked_and_then_given_up() {
    let mut bench = Bench::established();
    for at in [75, 150] {
        assert_eq!(bench.wait(), [(Plain, 0, 1, 0)]);
        assert_eq!(bench.now, Instant::from_secs(1 + at));
    }
    bench.send(Plain, 1, Some(1), b"");
    for _ in 0..3 {
        assert_eq!(bench.wait(), [(Plain, 0, 1, 0)]);
    }
    assert_eq!(bench.wait(), [(Rst, 1, 1, 0)]);
    assert_eq!(bench.now, Instant::from_secs(1 + 150 + 240));
    assert_eq!(bench.tcp.read(|_| 0), Read::Reset);
}

#[test]
fn a_question_whether_we_are_there_is_answered() {
    let mut bench = Bench::established();
    bench.send(Psh, 1, Some(1), b"x");
    bench.wait();
    assert_eq!(bench.send(Plain, 1, Some(1), b""), [(Plain, 1, 2, 0)]);
    assert_eq!(bench.send(Plain, 1, Some(1), b"x"), [(Plain, 1, 2, 0)]);
}

#[test]
fn what_nobody_acknowledges_is_repeated_and_given_up() {
    let mut bench = Bench::established();
    bench.tcp.write(b"hello");
    assert_eq!(bench.emitted(), [(Psh, 1, 1, 5)]);
    let mut repeats = 0;
    while !bench.tcp.is_over() {
        // It is there, but never says that it has got this.
        bench.send(Plain, 1, Some(1), b"");
        repeats += bench
            .wait()
            .iter()
            .filter(|seen| **seen == (Psh, 1, 1, 5))
            .count();
    }
    assert!((8..=13).contains(&repeats), "{repeats}");
    assert_eq!(bench.now - Instant::from_secs(1), SILENCE_TIMEOUT);
}

#[test]
fn strays_are_refused() {
    let bench = Bench::listening();
    let [from, to] = sim::keys();
    let answer = |segment: &TcpRepr<'_>| {
        let packet = emit(from.local.ip(), from.remote.ip(), segment, [&[], &[]]);
        refusal(&to, &packet).map(|answer| bench.seen(&answer))
    };
    assert_eq!(answer(&bench.segment(Rst, 9, Some(9), b"")), None);
    assert_eq!(
        answer(&bench.segment(Plain, 9, Some(9), b"")),
        Some((Rst, 9, -1, 0))
    );
    let (control, _, ack, _) = answer(&bench.segment(Fin, 9, None, b"")).unwrap();
    assert_eq!((control, ack), (Rst, 10));
    let nobody = FlowKey {
        local: "224.0.0.1:80".parse().unwrap(),
        ..to
    };
    assert!(Tcp::listening(&nobody, ample(), bench.now, 0).is_none());
}

use proptest::prelude::*;

use super::*;
use crate::netstack::tcp::memory::Pool;

fn stream(range: std::ops::Range<u64>) -> Vec<u8> {
    range.map(|at| (at * 31 % 251) as u8).collect()
}

fn drain(receiver: &mut Receiver, got: &mut Vec<u8>) {
    while receiver.has_unread() {
        got.extend_from_slice(receiver.front());
        receiver.take(receiver.front().len());
    }
}

const AMPLE: Allowance = Allowance::More(1 << 20);

/// A receiver whose window was announced.
fn open() -> Receiver {
    let mut receiver = Receiver::new();
    receiver.open(SHIFT, 3_000);
    receiver.window = 256 << 10;
    receiver.announce(AMPLE, SHIFT);
    receiver
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn pieces_in_any_order_make_the_stream(
        pieces in prop::collection::vec((0..20_000_u64, 1..3_000_u64), 1..80),
        end in 15_000..25_000_u64,
    ) {
        let now = Instant::from_secs(1);
        let mut receiver = open();
        let mut got = Vec::new();
        // What came and what should be known to have come.
        let mut model = vec![false; end as usize + 1];
        let whole = (1..end).step_by(1000).map(|start| (start, 1000));
        for (start, len) in pieces.into_iter().map(|(start, len)| (start + 1, len)).chain(whole) {
            let last = (start + len).min(end);
            if start >= last {
                continue;
            }
            let fin = last == end;
            receiver.receive(now, start, &stream(start..last), fin, AMPLE, true);
            model[start as usize..last as usize].fill(true);
            prop_assert!(receiver.ahead.windows(2).all(|pair| pair[0].end() < pair[1].start));
            let next = (1..end).find(|at| !model[*at as usize]).unwrap_or(end);
            prop_assert_eq!(receiver.next, next + u64::from(next == end && receiver.fin.is_some()));
            let ahead = (next..end).filter(|at| model[*at as usize]).count();
            prop_assert_eq!(receiver.ahead.iter().map(|range| range.bytes.len()).sum::<usize>(), ahead);
            drain(&mut receiver, &mut got);
        }
        prop_assert_eq!(got, stream(1..end));
        prop_assert!(receiver.is_finished());
    }
}

#[test]
fn what_is_beyond_the_window_is_not_kept() {
    let mut receiver = open();
    let edge = receiver.promised;
    let now = Instant::from_secs(1);
    receiver.receive(now, edge - 5, &[1; 10], false, AMPLE, true);
    assert_eq!(receiver.ahead[0].end(), edge);
    receiver.receive(now, edge, &[1; 10], false, AMPLE, true);
    assert_eq!(receiver.ahead.len(), 1);
}

#[test]
fn a_hostile_sender_of_crumbs_gets_no_more_than_its_share() {
    let mut receiver = open();
    for i in 0..10_000 {
        receiver.receive(Instant::from_secs(1), 10 + i * 2, b"x", false, AMPLE, true);
    }
    assert_eq!(receiver.ahead.len(), MAX_AHEAD);
    assert!(receiver.held() < 200 << 10, "{}", receiver.held());
}

#[test]
fn when_all_memory_is_gone_only_what_is_next_is_taken() {
    let mut receiver = open();
    for start in [1, 5_000, 1001, 2001] {
        let now = Instant::from_secs(1);
        receiver.receive(now, start, &[1; 1000], false, Allowance::Exhausted, true);
    }
    assert_eq!((receiver.next, receiver.ahead.len()), (2001, 0));
}

/// What several senders of full segments and their slow readers do.
#[derive(Debug, Clone, Copy)]
enum Step {
    /// Sends the segment so many further than the next one, if the window lets it.
    Send(u64),
    /// Reads so much.
    Read(usize),
    /// Hears of the window.
    Announce,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => prop_oneof![Just(0), 0..300_u64].prop_map(Step::Send),
        1 => (0..5_000_usize).prop_map(Step::Read),
        2 => Just(Step::Announce),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn what_was_promised_is_kept_and_memory_suffices(
        steps in prop::collection::vec((0..8_usize, step()), 1..10_000),
        limit in (1_usize << 20)..(4 << 20),
    ) {
        const SEGMENT: u64 = 1240;
        let now = Instant::from_secs(1);
        let node = Pool::new(limit);
        let mut ends: Vec<_> = (0..8).map(|_| {
            let mut receiver = Receiver::new();
            receiver.open(SHIFT, SEGMENT as usize);
            // As large as readers that keep up and a long path make it.
            receiver.window = receiver.most;
            (receiver, Share::new(Pool::new(1 << 30), node.clone()), 1_u64)
        }).collect();
        for (who, step) in steps {
            let (receiver, share, edge) = &mut ends[who];
            match step {
                Step::Send(further) => {
                    let start = receiver.next + further * SEGMENT;
                    if start + SEGMENT > *edge || receiver.ahead.len() == MAX_AHEAD {
                        continue;
                    }
                    let data = [1; SEGMENT as usize];
                    receiver.receive(now, start, &data, false, Allowance::of(share), true);
                    let ahead = |range: &Range| range.start <= start && start + SEGMENT <= range.end();
                    prop_assert!(receiver.next >= start + SEGMENT || receiver.ahead.iter().any(ahead));
                }
                Step::Read(count) => receiver.take(count),
                Step::Announce => {
                    let window = u64::from(receiver.announce(Allowance::of(share), SHIFT)) << SHIFT;
                    prop_assert!(receiver.next + window + (1 << SHIFT) > *edge, "the window shrinks");
                    *edge = (*edge).max(receiver.next + window);
                }
            }
            share.set(receiver.held(), receiver.reserved());
            prop_assert!(share.pressure() < Pressure::Full);
        }
    }
}

#[test]
fn the_promised_end_of_the_window_never_goes_back() {
    let mut receiver = open();
    let promised = receiver.promised;
    receiver.receive(Instant::from_secs(1), 1, &[1; 1000], false, AMPLE, true);
    for allowance in [Allowance::Least, Allowance::None, Allowance::Exhausted, AMPLE] {
        let window = u64::from(receiver.announce(allowance, SHIFT)) << SHIFT;
        assert!(receiver.next + window + (1 << SHIFT) > promised, "{allowance:?}");
        assert!(receiver.promised >= promised);
    }
}

use proptest::prelude::*;

use super::*;

fn stream(range: std::ops::Range<u64>) -> Vec<u8> {
    range.map(|at| (at * 31 % 251) as u8).collect()
}

fn drain(receiver: &mut Receiver, got: &mut Vec<u8>) {
    while receiver.has_unread() {
        got.extend_from_slice(receiver.front());
        receiver.take(receiver.front().len());
    }
}

/// A receiver whose window was announced.
fn open() -> Receiver {
    let mut receiver = Receiver::new();
    receiver.open();
    receiver.announce(Allowance::Ample, SHIFT);
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
            receiver.receive(now, start, &stream(start..last), fin, Allowance::Ample, true);
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
    receiver.receive(now, edge - 5, &[1; 10], false, Allowance::Ample, true);
    assert_eq!(receiver.ahead[0].end(), edge);
    receiver.receive(now, edge, &[1; 10], false, Allowance::Ample, true);
    assert_eq!(receiver.ahead.len(), 1);
}

#[test]
fn a_hostile_sender_of_crumbs_gets_no_more_than_its_share() {
    let mut receiver = open();
    for i in 0..10_000 {
        receiver.receive(
            Instant::from_secs(1),
            10 + i * 2,
            b"x",
            false,
            Allowance::Ample,
            true,
        );
    }
    assert_eq!(receiver.ahead.len(), MAX_AHEAD);
    assert!(receiver.held() < 200 << 10, "{}", receiver.held());
}

#[test]
fn short_memory_closes_the_window_and_takes_only_what_is_next() {
    let mut receiver = open();
    let now = Instant::from_secs(1);
    receiver.receive(now, 1, &[1; 1000], false, Allowance::None, true);
    receiver.receive(now, 5_000, &[1; 1000], false, Allowance::None, true);
    receiver.receive(now, 1001, &[1; 1000], false, Allowance::None, true);
    receiver.receive(now, 2001, &[1; 1000], false, Allowance::None, true);
    assert_eq!((receiver.next, receiver.ahead.len()), (2001, 0));
}

#[test]
fn the_promised_end_of_the_window_never_goes_back() {
    let mut receiver = open();
    let promised = receiver.promised;
    receiver.receive(
        Instant::from_secs(1),
        1,
        &[1; 1000],
        false,
        Allowance::Ample,
        true,
    );
    for allowance in [Allowance::Lean, Allowance::None, Allowance::Ample] {
        let window = u64::from(receiver.announce(allowance, SHIFT)) << SHIFT;
        assert!(receiver.next + window + (1 << SHIFT) > promised, "{allowance:?}");
        assert!(receiver.promised >= promised);
    }
}

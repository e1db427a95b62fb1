use super::*;

const MS: Duration = Duration::from_millis(1);

fn at(ms: i64) -> Instant {
    Instant::from_millis(ms)
}

/// Ten segments of 100 bytes, sent a millisecond apart.
fn ten() -> Scoreboard {
    let mut board = Scoreboard::default();
    for i in 0..10 {
        board.push(i * 100, i * 100 + 100, at(i as i64));
    }
    board
}

fn sack(board: &mut Scoreboard, now: i64, start: u64, end: u64) -> Delivered {
    let mut delivered = Delivered::at(at(now), MS);
    board.sacked([Some((start, end)), None, None], &mut delivered);
    delivered
}

fn losses(board: &mut Scoreboard, now: i64) -> (bool, Option<Instant>) {
    board.find_losses(at(now), MS * 20, MS * 20, MS * 100, false)
}

fn lost(board: &Scoreboard) -> Vec<u64> {
    board
        .sent
        .iter()
        .filter(|sent| sent.lost)
        .map(|sent| sent.start)
        .collect()
}

#[test]
fn three_segments_beyond_a_hole_mean_a_loss() {
    let mut board = ten();
    sack(&mut board, 21, 100, 200);
    assert_eq!(losses(&mut board, 21), (false, Some(at(25))));
    sack(&mut board, 22, 100, 300);
    assert!(!losses(&mut board, 22).0);
    let delivered = sack(&mut board, 23, 100, 400);
    assert_eq!((delivered.bytes, delivered.rtt), (100, Some(MS * 20)));
    assert_eq!(losses(&mut board, 23), (true, None));
    assert_eq!(lost(&board), [0]);
    assert_eq!(
        (board.in_flight(), board.lost(), board.first_lost()),
        (600, 100, Some((0, 100)))
    );
    board.resent(0, at(23));
    assert_eq!(
        (board.in_flight(), board.lost(), board.first_lost()),
        (700, 0, None)
    );
}

#[test]
fn a_hole_is_lost_when_a_quarter_of_the_round_trip_has_passed() {
    let mut board = ten();
    sack(&mut board, 21, 100, 200);
    assert_eq!(losses(&mut board, 24), (false, Some(at(25))));
    assert_eq!(losses(&mut board, 25), (true, None));
    assert_eq!(lost(&board), [0]);
}

#[test]
fn who_reorders_gets_time() {
    let mut board = ten();
    sack(&mut board, 21, 100, 200);
    // The hole was only late.
    let mut delivered = Delivered::at(at(22), MS);
    board.acknowledged(200, &mut delivered);
    assert_eq!(delivered.bytes, 100);
    sack(&mut board, 25, 300, 700);
    assert!(
        !losses(&mut board, 25).0,
        "four segments beyond the hole are no proof any more"
    );
    assert_eq!(losses(&mut board, 33), (true, None));
    assert_eq!(lost(&board), [200]);
    // And more of it after a retransmission that wasn't needed.
    board.resent(200, at(33));
    board.duplicated(200, 1000);
    board.duplicated(200, 1000);
    sack(&mut board, 34, 300, 700);
    sack(&mut board, 34, 800, 900);
    assert_eq!(losses(&mut board, 34).1, Some(at(7 + 26 + 10)));
    for _ in 0..REORDERING_PERSIST {
        board.recovered();
    }
    assert_eq!(losses(&mut board, 34).1, Some(at(7 + 26 + 5)));
}

#[test]
fn a_retransmission_that_is_lost_is_found_by_what_was_sent_after_it() {
    let mut board = ten();
    sack(&mut board, 23, 100, 400);
    losses(&mut board, 23);
    board.resent(0, at(23));
    board.push(1000, 1100, at(24));
    sack(&mut board, 30, 100, 1000);
    assert!(!board.find_losses(at(30), MS * 20, MS * 20, MS * 100, true).0);
    sack(&mut board, 45, 100, 1100);
    assert!(board.find_losses(at(45), MS * 20, MS * 20, MS * 100, true).0);
    assert_eq!(lost(&board), [0]);
}

#[test]
fn blocks_that_grow_count_once() {
    let mut board = ten();
    assert_eq!(
        sack(&mut board, 21, 250, 460).bytes,
        100,
        "segments that arrived in part don't count"
    );
    assert_eq!(sack(&mut board, 21, 250, 600).bytes, 200);
    assert_eq!(sack(&mut board, 21, 250, 600).bytes, 0);
    assert_eq!(sack(&mut board, 21, 100, 600).bytes, 200);
    assert_eq!(
        (board.sacked, board.sacked_segments, board.in_flight()),
        (500, 5, 500)
    );
    let mut delivered = Delivered::at(at(30), MS);
    board.acknowledged(650, &mut delivered);
    assert_eq!((delivered.bytes, board.in_flight(), board.sacked), (150, 350, 0));
}

#[test]
fn a_timeout_loses_everything_that_is_not_known_to_have_arrived() {
    let mut board = ten();
    sack(&mut board, 30, 300, 500);
    board.all_lost();
    assert_eq!((board.lost(), board.in_flight()), (800, 0));
    assert_eq!(board.first_lost(), Some((0, 100)));
    // The first one cannot be both missing and reported: the other side has changed its mind.
    let mut delivered = Delivered::at(at(31), MS);
    board.acknowledged(300, &mut delivered);
    board.all_lost();
    assert_eq!(
        (board.lost(), board.in_flight(), board.has_sacked()),
        (700, 0, false)
    );
}

#[test]
fn an_answer_that_came_too_fast_was_to_the_first_transmission() {
    let mut board = ten();
    board.all_lost();
    board.resent(0, at(200));
    let mut delivered = Delivered::at(at(202), MS * 20);
    board.acknowledged(100, &mut delivered);
    assert_eq!((delivered.bytes, delivered.rtt), (100, None));
    board.resent(100, at(202));
    assert_eq!(
        losses(&mut board, 203),
        (false, None),
        "the second one is not late yet"
    );
}

#[test]
fn segments_are_given_the_time_that_others_were_late() {
    let mut board = ten();
    sack(&mut board, 12, 900, 1000); // 3 ms after it was sent
    board.acknowledged(1000, &mut Delivered::at(at(20), MS)); // the first 20 ms after: 17 ms late
    assert_eq!(board.rack.late, MS * 17);
    board.push(1000, 1100, at(30));
    board.push(1100, 1200, at(31));
    sack(&mut board, 34, 1100, 1200);
    let patience = MS * 17 * 5 / 4;
    assert_eq!(losses(&mut board, 34), (false, Some(at(30) + MS * 3 + patience)));
    board.recovered();
    board.recovered(); // without any that was late
    assert!(!losses(&mut board, 43).0);
    assert!(losses(&mut board, 44).0);
}

#[test]
fn a_lost_ack_looks_like_no_reordering() {
    let mut board = ten();
    let mut delivered = Delivered::at(at(30), MS);
    board.sacked(
        [Some((800, 900)), Some((500, 700)), Some((100, 300))],
        &mut delivered,
    );
    assert!(!board.rack.reordering);
}

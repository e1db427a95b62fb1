//! What control asks of us, and what we ask of it: questions, records, logouts.

use super::*;

#[tokio::test(start_paused = true)]
async fn questions_are_answered_once() {
    let (mut lab, stream) = Lab::start().await;
    let ping = r#"{"KeepAlive":true,"PingRequest":{"URL":"https://unused/ping/1","URLIsNoise":true}}"#;
    stream.send(ping);
    stream.send(ping);
    let head = lab.server.path("/ping/1").await;
    assert_eq!(head.method, Method::HEAD);
    head.answer(200, "");
    stream.send(r#"{"PingRequest":{"URL":"http://elsewhere.test/ping/2"}}"#);
    let head = lab.server.path("/ping/2").await;
    assert_eq!(head.method, Method::HEAD);
    head.answer(200, "");
    // GET /vip-services HTTP/1.1
    stream.send(
        r#"{"PingRequest":{"URL":"https://unused/c2n/3","Types":"c2n",
            "Payload":"R0VUIC92aXAtc2VydmljZXMgSFRUUC8xLjENCkhvc3Q6IHgNCg0K"}}"#,
    );
    let c2n: Call = lab.server.path("/c2n/3").await;
    let text = String::from_utf8(c2n.raw.to_vec()).unwrap();
    assert!(
        text.starts_with("HTTP/1.1 200 OK\r\n") && text.ends_with("\"ServicesHash\":\"\"}\n"),
        "{text}"
    );
    c2n.answer(200, "");
    for url in ["", "::", "ftp://x", "https://unused/4"] {
        stream.send(&format!(r#"{{"PingRequest":{{"URL":"{url}","Types":"TSMP"}}}}"#));
    }
    sleep(Duration::from_secs(5)).await;
    assert_eq!(lab.server.waiting(), 0);
    assert_eq!(*lab.control.status.borrow(), ControlStatus::Running);
}

#[tokio::test(start_paused = true)]
async fn a_question_that_was_one_too_many_is_answered_when_it_is_asked_again() {
    let (mut lab, stream) = Lab::start().await;
    let ask = |n: usize| {
        let url = format!("https://unused/ping/{n}");
        stream.send(&format!(
            r#"{{"KeepAlive":true,"PingRequest":{{"URL":"{url}","URLIsNoise":true}}}}"#
        ));
    };
    (0..9).for_each(ask);
    let mut taken = Vec::new();
    for n in 0..8 {
        taken.push(lab.server.path(&format!("/ping/{n}")).await);
    }
    sleep(Duration::from_secs(1)).await;
    assert_eq!(lab.server.waiting(), 0);
    taken.remove(0).answer(200, "");
    sleep(Duration::from_secs(1)).await;
    ask(8);
    let again = timeout(Duration::from_secs(1), lab.server.path("/ping/8")).await;
    again.expect("it is answered").answer(200, "");
}

#[tokio::test(start_paused = true)]
async fn many_records_at_once_take_turns() {
    let (mut lab, _stream) = Lab::start().await;
    let mut asking = tokio::task::JoinSet::new();
    for n in 0..40 {
        let control = lab.control.clone();
        asking.spawn(async move { control.set_dns(&format!("n{n}"), "v").await });
    }
    for left in (0..40).rev() {
        sleep(Duration::from_secs(1)).await;
        let under_way = lab.server.waiting();
        assert_eq!(under_way, (left + 1).min(8));
        lab.server.path("/machine/set-dns").await.answer(200, "{}");
    }
    for result in asking.join_all().await {
        result.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn records_that_control_never_answers_for_hold_up_neither_its_questions_nor_later_ones() {
    let (mut lab, stream) = Lab::start().await;
    let mut asking = tokio::task::JoinSet::new();
    let mut ignored = Vec::new();
    for n in 0..8 {
        let control = lab.control.clone();
        asking.spawn(async move { control.set_dns(&format!("n{n}"), "v").await });
        ignored.push(lab.server.path("/machine/set-dns").await);
    }
    stream.send(r#"{"KeepAlive":true,"PingRequest":{"URL":"https://unused/ping/1","URLIsNoise":true}}"#);
    let head = timeout(Duration::from_secs(1), lab.server.path("/ping/1")).await;
    head.expect("the question is answered").answer(200, "");
    for result in asking.join_all().await {
        assert!(matches!(result, Err(ControlError::Timeout(_))), "{result:?}");
    }
    let control = lab.control.clone();
    let answer = async { lab.server.path("/machine/set-dns").await.answer(200, "{}") };
    let ((), result) = tokio::join!(answer, control.set_dns("x", "y"));
    result.unwrap();
}

#[tokio::test(start_paused = true)]
async fn dns_records_are_set_or_the_reason_is_told() {
    let (mut lab, _stream) = Lab::start().await;
    let control = lab.control.clone();
    let answers = async {
        let call = lab.server.path("/machine/set-dns").await;
        assert_eq!(
            (&call.body["Name"], &call.body["Type"], &call.body["Value"]),
            (&"_acme-challenge.h".into(), &"TXT".into(), &"v".into())
        );
        call.answer(200, "{}");
        lab.server.path("/machine/set-dns").await.answer(501, "not here");
    };
    let asks = async {
        control.set_dns("_acme-challenge.h", "v").await.unwrap();
        control.set_dns("x", "y").await.unwrap_err().to_string()
    };
    let ((), refused) = tokio::join!(answers, asks);
    assert!(
        refused.contains("501") && refused.contains("not here"),
        "{refused}"
    );
    let late = Instant::now();
    let error = control.set_dns("x", "y").await.unwrap_err();
    assert!(matches!(error, ControlError::Timeout(_)), "{error}");
    assert_eq!(late.elapsed(), REQUEST_TIMEOUT);
}

#[tokio::test(start_paused = true)]
async fn a_logout_ends_the_key_and_the_session() {
    let (mut lab, stream) = Lab::start().await;
    let key = lab.node_key.borrow().public();
    let control = lab.control.clone();
    let answer = async {
        let register = lab.server.register().await;
        assert_eq!(register.body["Expiry"], "1970-01-01T00:02:03Z");
        // Control tells the stream first.
        stream.send(&self_node(r#","KeyExpiry":"1970-01-01T00:02:03Z""#));
        sleep(Duration::from_secs(1)).await;
        register.answer(200, "{}");
    };
    let ((), result) = tokio::join!(answer, control.logout());
    result.unwrap();
    let (stored, registered) = lab.store.last();
    assert!(stored != key && !registered);
    lab.status(|s| matches!(s, ControlStatus::Refused { .. })).await;
    lab.tasks.close();
    timeout(Duration::from_secs(60), lab.tasks.wait()).await.unwrap();
    assert!(matches!(control.logout().await, Err(ControlError::NoSession)));
}

/// Answers a logout of `key`.
async fn takes_logout(server: &mut Server, key: NodePublic) {
    let bye = server.call(|call| call.body.get("Expiry").is_some()).await;
    assert_eq!(bye.path, "/machine/register");
    assert_eq!(bye.body["NodeKey"], key.to_string());
    assert_eq!(bye.body["Expiry"], "1970-01-01T00:02:03Z");
    bye.answer(200, "{}");
}

#[tokio::test(start_paused = true)]
async fn a_logout_needs_no_map_stream() {
    // Control refuses the key; the next attempt is minutes away.
    let mut refused = lab(None, true);
    for _ in 0..20 {
        refused.server.register().await.answer(403, "go away");
    }
    refused
        .status(|s| matches!(s, ControlStatus::Refused { .. }))
        .await;
    // The key has ended and can't be renewed.
    let mut expired = lab(Some("tskey-auth-1"), true);
    for answer in [r#"{"NodeKeyExpired":true}"#, r#"{"Error":"used up"}"#] {
        expired.server.register().await.answer(200, answer);
    }
    expired.status(|s| *s == ControlStatus::KeyExpired).await;
    // The key has ended and somebody would have to log in.
    let mut waiting = lab(None, true);
    for answer in [
        r#"{"NodeKeyExpired":true}"#,
        r#"{"AuthURL":"http://control.test/a/1"}"#,
    ] {
        waiting.server.register().await.answer(200, answer);
    }
    let _followup = waiting.server.register().await;
    waiting
        .status(|s| matches!(s, ControlStatus::NeedsLogin { .. }))
        .await;
    for mut lab in [refused, expired, waiting] {
        let key = lab.node_key.borrow().public();
        let (control, asked) = (lab.control.clone(), Instant::now());
        let ((), result) = tokio::join!(takes_logout(&mut lab.server, key), control.logout());
        result.unwrap();
        assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
        let (stored, registered) = lab.store.last();
        assert!(stored != key && !registered);
        lab.tasks.close();
        timeout(Duration::from_secs(60), lab.tasks.wait()).await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_logout_that_control_does_not_hear_of_says_so_soon_and_is_kept_all_the_same() {
    let unreachable = lab(None, true);
    unreachable.network.down.store(true, Ordering::Relaxed);
    let silent = lab(None, true);
    *silent.network.slowness.lock().unwrap() = Duration::from_secs(3600);
    for (lab, reason) in [
        (unreachable, "connect to http://control.test"),
        (silent, "did not answer"),
    ] {
        sleep(Duration::from_secs(100)).await;
        let asked = Instant::now();
        let error = lab.control.logout().await.unwrap_err().to_string();
        assert!(error.contains(reason), "{error}");
        assert!(
            asked.elapsed() <= Duration::from_secs(20),
            "{:?}",
            asked.elapsed()
        );
        assert!(!lab.store.last().1);
    }
    let (mut refusing, _stream) = Lab::start().await;
    let control = refusing.control.clone();
    let refuse = async {
        refusing
            .server
            .register()
            .await
            .answer(200, r#"{"Error":"never"}"#)
    };
    let ((), result) = tokio::join!(refuse, control.logout());
    assert!(result.unwrap_err().to_string().contains("never"));
    assert!(!refusing.store.last().1);
}

#[tokio::test(start_paused = true)]
async fn who_has_not_logged_in_logs_out_at_once() {
    let lab = lab(Some("tskey-auth-1"), false);
    lab.network.down.store(true, Ordering::Relaxed);
    sleep(Duration::from_secs(10)).await;
    lab.control.logout().await.unwrap();
    assert!(!lab.store.last().1);
}

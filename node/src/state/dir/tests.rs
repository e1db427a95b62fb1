use std::{os::unix::fs::PermissionsExt, process::Command};

use super::*;

fn values<const N: usize>(values: [(&str, &str); N]) -> BTreeMap<String, Vec<u8>> {
    values
        .map(|(key, value)| (key.to_owned(), value.as_bytes().to_vec()))
        .into()
}

async fn read(store: &DirStore, key: &str) -> Option<String> {
    let value = store.read(key).await.unwrap();
    value.map(|value| String::from_utf8(value).unwrap())
}

#[tokio::test]
async fn values_are_kept_where_nobody_else_can_read_them() {
    let parent = tempfile::tempdir().unwrap();
    let path = parent.path().join("a/b");
    let store = DirStore::open(&path).unwrap();
    assert_eq!(read(&store, "state").await, None);
    store
        .write(values([("state", "1"), ("x.crt", "2")]))
        .await
        .unwrap();
    store.write(values([("state", "3")])).await.unwrap();
    drop(store);

    let store = DirStore::open(&path).unwrap();
    assert_eq!(read(&store, "state").await.as_deref(), Some("3"));
    assert_eq!(read(&store, "x.crt").await.as_deref(), Some("2"));
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&path), 0o700);
    assert_eq!(mode(&path.join("state")), 0o600);
    assert_eq!(mode(&path.join(LOCK)), 0o600);
}

/// Dies before the `crash`th step of `work`. Which one that is; `None` when there are fewer.
fn killed_before(
    crash: usize,
    work: impl FnOnce(&mut dyn FnMut(Step) -> io::Result<()>) -> Result<(), StateError>,
) -> Option<Step> {
    let (mut steps, mut killed) = (0, None);
    // A panic in the step: nothing after it runs, no clean-up either.
    let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let _ = work(&mut |step| {
            if steps == crash {
                killed = Some(step);
                panic!("killed before {step:?}")
            }
            steps += 1;
            Ok(())
        });
    }));
    killed
}

/// Writes new values over old ones, dies before the `crash`th step, and starts again. Says what is there then.
async fn crashed<const N: usize>(keys: [&str; N], crash: usize) -> (Option<Step>, Vec<String>) {
    let dir = tempfile::tempdir().unwrap();
    let store = DirStore::open(dir.path()).unwrap();
    store.write(values(keys.map(|key| (key, "old")))).await.unwrap();
    let new = values(keys.map(|key| (key, "new")));
    let killed = killed_before(crash, |step| store.0.write(&new, step));
    drop(store);

    let store = DirStore::open(dir.path()).unwrap();
    let mut found = Vec::new();
    for key in keys {
        found.extend(read(&store, key).await);
    }
    let files = fs::read_dir(dir.path()).unwrap().count();
    assert_eq!(files, N + 1, "the lock and the values after {killed:?}");
    store.write(values(keys.map(|key| (key, "newer")))).await.unwrap();
    assert_eq!(read(&store, keys[N - 1]).await.as_deref(), Some("newer"));
    (killed, found)
}

#[tokio::test]
async fn a_crash_at_any_step_leaves_the_old_or_the_new_value() {
    for crash in 0.. {
        let (killed, found) = crashed(["state"], crash).await;
        let expected = match killed {
            Some(Step::SyncDir) | None => "new",
            _ => "old",
        };
        assert_eq!(found, [expected], "{killed:?}");
        if killed.is_none() {
            assert_eq!(crash, 5, "all steps of one value");
            return;
        }
    }
}

#[tokio::test]
async fn a_crash_at_any_step_leaves_all_values_old_or_all_new() {
    for crash in 0.. {
        let (killed, found) = crashed(["x.crt", "x.key", "y.crt"], crash).await;
        let expected = match killed {
            Some(Step::Rename | Step::SyncDir | Step::Conclude) | None => "new",
            _ => "old",
        };
        assert_eq!(found, [expected; 3], "{killed:?}, step {crash}");
        if killed.is_none() {
            assert_eq!(crash, 3 * 3 + 1 + 3 + 2, "all steps of three values");
            return;
        }
    }
}

#[tokio::test]
async fn a_full_disk_keeps_the_old_values_and_names_the_file() {
    for full in [Step::Create, Step::Write, Step::Sync] {
        let dir = tempfile::tempdir().unwrap();
        let store = DirStore::open(dir.path()).unwrap();
        store
            .write(values([("x.crt", "old"), ("x.key", "old")]))
            .await
            .unwrap();
        let mut second = 0;
        let result = store
            .0
            .write(&values([("x.crt", "new"), ("x.key", "new")]), &mut |step| {
                second += usize::from(step == full);
                if second == 2 {
                    Err(io::ErrorKind::StorageFull.into())
                } else {
                    Ok(())
                }
            });
        let error = result.unwrap_err();
        let text = error.to_string();
        let place = format!("write {}: ", dir.path().join("x.key").display());
        assert!(
            text.starts_with(&place) && text.contains("free some space"),
            "{text}"
        );
        assert_eq!(read(&store, "x.crt").await.as_deref(), Some("old"));
        assert_eq!(read(&store, "x.key").await.as_deref(), Some("old"));
        assert_eq!(
            fs::read_dir(dir.path()).unwrap().count(),
            3,
            "no temporary file is left"
        );
    }
}

#[test]
fn a_second_user_is_told_who_is_there() {
    let dir = tempfile::tempdir().unwrap();
    let first = DirStore::open(dir.path()).unwrap();
    let text = DirStore::open(dir.path()).unwrap_err().to_string();
    let expected = format!("(process {}) is in use by another process", std::process::id());
    assert!(text.ends_with(&expected), "{text}");
    drop(first);
    DirStore::open(dir.path()).unwrap();
}

#[test]
fn another_process_keeps_us_out_for_as_long_as_it_lives() {
    let dir = tempfile::tempdir().unwrap();
    // Takes the lock, says so, and waits for its standard input to close.
    let mut other = Command::new("flock")
        .arg(dir.path().join(LOCK))
        .args(["sh", "-c", "echo locked; read _"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("flock (util-linux) is installed");
    let mut said = [0; 6];
    other.stdout.take().unwrap().read_exact(&mut said).unwrap();
    assert!(matches!(
        DirStore::open(dir.path()),
        Err(StateError::InUse { .. })
    ));
    drop(other.stdin.take());
    other.wait().unwrap();
    DirStore::open(dir.path()).unwrap();
}

#[tokio::test]
async fn keys_stay_inside_the_directory() {
    let dir = tempfile::tempdir().unwrap();
    let store = DirStore::open(dir.path()).unwrap();
    for key in ["", ".lock", "../x", "a/b", ".."] {
        assert!(store.read(key).await.is_err(), "{key:?}");
        assert!(store.write(values([(key, "x")])).await.is_err(), "{key:?}");
    }
}

#[tokio::test]
async fn clearing_removes_state_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let store = DirStore::open(dir.path()).unwrap();
    fs::write(dir.path().join("notes.txt"), "mine").unwrap();
    store
        .write(values([
            ("state", "1"),
            ("x.crt", "2"),
            ("acme-account.key.pem", "3"),
        ]))
        .await
        .unwrap();
    store.clear().await.unwrap();
    assert_eq!(read(&store, "state").await, None);
    assert_eq!(read(&store, "acme-account.key.pem").await, None);
    assert!(dir.path().join("notes.txt").exists());
}

/// A directory that Go's node has used, and ours after it, is cleared; we die before the `crash`th step, and start
/// again. Says what is there then.
async fn crashed_clearing(crash: usize) -> (Option<Step>, Vec<String>) {
    const FILES: [&str; 5] = ["state", "tailscaled.state", "x.crt", "x.key", "certs/x.crt"];
    let dir = tempfile::tempdir().unwrap();
    fs::create_dir(dir.path().join(GO_CERTS)).unwrap();
    for file in FILES {
        fs::write(dir.path().join(file), "old").unwrap();
    }
    let store = DirStore::open(dir.path()).unwrap();
    let killed = killed_before(crash, |step| store.0.clear(step));
    drop(store);

    let store = DirStore::open(dir.path()).unwrap();
    let found = FILES.iter().filter(|file| dir.path().join(file).exists());
    let found = found.map(ToString::to_string).collect();
    // It isn't cleared once more.
    store.write(values([("state", "new")])).await.unwrap();
    drop(store);
    let store = DirStore::open(dir.path()).unwrap();
    assert_eq!(read(&store, "state").await.as_deref(), Some("new"));
    (killed, found)
}

#[tokio::test]
async fn a_crash_at_any_step_of_clearing_leaves_everything_or_nothing() {
    for crash in 0.. {
        let (killed, found) = crashed_clearing(crash).await;
        let expected = if killed == Some(Step::Commit) { 5 } else { 0 };
        assert_eq!(found.len(), expected, "{killed:?}, step {crash}: {found:?}");
        if killed.is_none() {
            assert_eq!(crash, 1 + (4 + 1) + (1 + 1) + 1, "all steps of clearing");
            return;
        }
    }
}

use std::path::PathBuf;

use tempfile::TempDir;
use vchat_proto::wire::pb;

use super::*;

const ANN: Author = Author([1; 32]);
const BOB: Author = Author([2; 32]);

fn dir() -> TempDir {
    tempfile::tempdir().expect("a directory")
}

fn room(name: &str) -> RoomName {
    RoomName::parse(name).expect("a name")
}

fn post(author: Author, n: u8) -> Post {
    let id = ChatId([n; 16]);
    let line = pb::Line {
        id: id.0.to_vec(),
        text: format!("line {n}"),
        sent_ms: u64::from(n),
        ..pb::Line::default()
    };
    Post { author, id, line }
}

fn everything() -> Retention {
    Retention { age: Duration::from_secs(3600), lines: 1000 }
}

fn start(dir: &TempDir, retention: Retention) -> (Archive, oneshot::Receiver<()>) {
    Archive::start(dir.path(), retention).expect("an archive")
}

/// What becomes of these posts.
async fn store(archive: &Archive, name: &str, posts: impl IntoIterator<Item = Post>) -> Vec<Stored> {
    let (receipts, mut given) = mpsc::channel(QUEUE);
    let mut ids = Vec::new();
    for post in posts {
        ids.push((post.author, post.id));
        archive.store(&room(name), post, &receipts);
    }
    let mut stored = Vec::new();
    for id in ids {
        let receipt = given.recv().await.expect("a receipt");
        assert_eq!((receipt.author, receipt.id), id, "in the order of the posts");
        stored.push(receipt.stored);
    }
    stored
}

fn numbers(stored: &[Stored]) -> Vec<Option<u64>> {
    let number = |s: &Stored| match s {
        Stored::New { seq, .. } => Some(*seq),
        Stored::Known(_) | Stored::Failed => None,
    };
    stored.iter().map(number).collect()
}

async fn lines(archive: &Archive, name: &str) -> Vec<(u64, String)> {
    let kept = archive.open(room(name)).await.expect("read");
    kept.lines.into_iter().map(|l| (l.seq, l.text)).collect()
}

async fn stop((archive, ended): (Archive, oneshot::Receiver<()>)) {
    drop(archive);
    drop(ended.await);
}

#[tokio::test]
async fn lines_are_numbered_by_room_and_there_after_a_restart() {
    let dir = dir();
    let (archive, ended) = start(&dir, everything());
    assert_eq!(
        numbers(&store(&archive, "a", (1..=3).map(|n| post(ANN, n))).await),
        [Some(1), Some(2), Some(3)]
    );
    assert_eq!(numbers(&store(&archive, "b", [post(ANN, 9)]).await), [Some(1)]);
    let before = archive.open(room("a")).await.expect("read");
    assert_eq!(before.last_seq, 3);
    stop((archive, ended)).await;

    let (archive, _ended) = start(&dir, everything());
    let after = archive.open(room("a")).await.expect("read");
    assert!(after.participants >= before.participants + 1000, "numbers that nobody has had");
    assert_eq!(Kept { participants: before.participants, ..after }, before);
    let all: Vec<String> = before.lines.iter().map(|l| l.text.clone()).collect();
    assert_eq!(all, ["line 1", "line 2", "line 3"]);
    assert_eq!(numbers(&store(&archive, "a", [post(BOB, 4)]).await), [Some(4)]);
    assert_ne!(archive.open(room("b")).await.expect("read").history, before.history);
}

#[tokio::test]
async fn a_post_that_comes_again_is_stored_once_even_after_a_restart() {
    let dir = dir();
    let (archive, ended) = start(&dir, everything());
    let first = store(&archive, "a", [post(ANN, 1), post(ANN, 2), post(ANN, 1), post(BOB, 1)]).await;
    assert_eq!(first[2], Stored::Known(1));
    assert_eq!(numbers(&first), [Some(1), Some(2), None, Some(3)], "an identity is its author's own");
    stop((archive, ended)).await;
    let (archive, _ended) = start(&dir, everything());
    assert_eq!(store(&archive, "a", [post(ANN, 2)]).await, [Stored::Known(2)]);
    assert_eq!(lines(&archive, "a").await.len(), 3);
}

#[tokio::test]
async fn old_lines_are_read_page_by_page() {
    let dir = dir();
    let (archive, _ended) = start(&dir, everything());
    store(&archive, "a", (1..=9).map(|n| post(ANN, n))).await;
    let page = async |before, limit| {
        let page = archive.page(room("a"), before, limit).await.expect("read");
        page.lines.iter().map(|l| l.seq).collect::<Vec<_>>()
    };
    assert_eq!(page(u64::MAX, 3).await, [7, 8, 9]);
    assert_eq!(page(7, 3).await, [4, 5, 6]);
    assert_eq!(page(2, 3).await, [1]);
    assert_eq!(page(1, 3).await, [] as [u64; 0]);
    assert_eq!(archive.page(room("other"), 9, 9).await.expect("read"), Kept::default());
}

#[test]
fn a_page_is_found_by_the_index_however_long_the_chat_is() {
    let dir = dir();
    let plan = Book::open(dir.path(), everything()).expect("a book").plan_of_a_page();
    assert!(plan.starts_with("SEARCH line USING PRIMARY KEY (room=? AND seq<?)"), "{plan}");
    assert!(!plan.contains("TEMP B-TREE"), "sorted by hand: {plan}");
}

#[tokio::test]
async fn lines_that_are_too_old_or_too_many_are_forgotten_and_numbers_go_on() {
    let dir = dir();
    let retention = Retention { age: Duration::from_millis(100), lines: 4 };
    let mut book = Book::open(dir.path(), retention).expect("a book");
    for n in 1..=9 {
        book.store(&room("a"), &post(ANN, n)).expect("stored");
        book.store(&room("b"), &post(ANN, n)).expect("stored");
    }
    let kept = |book: &mut Book| {
        let kept = book.kept(&room("a")).expect("read");
        (kept.last_seq, kept.lines.iter().map(|l| l.seq).collect::<Vec<_>>())
    };
    book.forget(105).expect("forgotten");
    assert_eq!(kept(&mut book), (9, vec![6, 7, 8, 9]), "too many");
    // Line 8 is of millisecond 8.
    book.forget(108).expect("forgotten");
    assert_eq!(kept(&mut book), (9, vec![8, 9]), "too old");
    book.forget(10_000).expect("forgotten");
    assert_eq!(kept(&mut book), (9, vec![]));
    assert!(matches!(book.store(&room("a"), &post(BOB, 1)), Ok(Stored::New { seq: 10, .. })));
}

#[tokio::test]
async fn a_damaged_file_is_kept_aside_and_the_chat_begins_anew() {
    let dir = dir();
    let (archive, ended) = start(&dir, everything());
    store(&archive, "a", (1..=200).map(|n| post(ANN, n))).await;
    let history = archive.open(room("a")).await.expect("read").history;
    stop((archive, ended)).await;
    let path = dir.path().join("chat.db");
    let damaged = |bytes: &mut Vec<u8>, what: &str| match what {
        "no database" => bytes[..100].fill(b'x'),
        "pages" => bytes[5000..].fill(0xff),
        _ => bytes.truncate(bytes.len() / 2),
    };
    for what in ["pages", "no database", "half"] {
        let mut bytes = std::fs::read(&path).expect("there");
        damaged(&mut bytes, what);
        std::fs::write(&path, &bytes).expect("written");
        let (archive, ended) = start(&dir, everything());
        let kept = archive.open(room("a")).await.expect("read");
        assert!(kept.history != history && kept.lines.is_empty(), "{what}");
        assert_eq!(
            numbers(&store(&archive, "a", (1..=200).map(|n| post(ANN, n))).await).len(),
            200,
            "{what}"
        );
        stop((archive, ended)).await;
        let aside = |entry: std::io::Result<std::fs::DirEntry>| entry.expect("an entry").path();
        let asides: Vec<PathBuf> = dir.path().read_dir().expect("a directory").map(aside).collect();
        let same = asides.iter().any(|p| {
            p.to_string_lossy().contains("chat.db.damaged-") && std::fs::read(p).is_ok_and(|b| b == bytes)
        });
        assert!(same, "{what}: {asides:?}");
    }
}

#[tokio::test]
async fn while_the_disk_is_full_posts_fail_and_afterwards_they_do_not() {
    let dir = dir();
    let book = Book::open(dir.path(), everything()).expect("a book");
    let pages: u32 = book.limit(None);
    book.limit(Some(pages + 1));
    let (jobs, mut queue) = mpsc::channel(QUEUE);
    let stats = Arc::new(ChatStats::default());
    let archive = Archive(jobs, stats.clone());
    let counted = stats.clone();
    let thread = std::thread::spawn(move || work(book, &mut queue, &counted));
    let big = |n: u8| {
        let mut post = post(ANN, n);
        post.line.text = "x".repeat(2000);
        post
    };
    let mut outcomes = Vec::new();
    for n in 1..=20 {
        outcomes.extend(store(&archive, "a", [big(n)]).await);
    }
    let stored = outcomes.iter().take_while(|s| **s != Stored::Failed).count();
    assert!((1..20).contains(&stored), "{outcomes:?}");
    assert!(outcomes[stored..].iter().all(|s| *s == Stored::Failed), "{outcomes:?}");
    assert_eq!(lines(&archive, "a").await.len(), stored, "what was stored can be read");
    archive.answers().await;
    assert_eq!(stats.failed.get(), 20 - stored as u64);
    assert_eq!(stats.broken.get(), 1, "that the thread answers and reads does not mean that it can write");
    drop(archive);
    let mut book = thread.join().expect("the book");
    book.limit(Some(10_000));
    assert!(
        matches!(book.store(&room("a"), &big(20)), Ok(Stored::New { seq, .. }) if seq == stored as u64 + 1)
    );
}

#[test]
fn a_file_of_a_later_version_is_refused_and_not_touched() {
    let dir = dir();
    drop(Book::open(dir.path(), everything()).expect("a book"));
    let path = dir.path().join("chat.db");
    rusqlite::Connection::open(&path).expect("open").pragma_update(None, "user_version", 9).expect("set");
    let why = format!("{:#}", Book::open(dir.path(), everything()).err().expect("refused"));
    assert!(why.contains("later vchatd (version 9)"), "{why}");
    assert!(path.exists());
}

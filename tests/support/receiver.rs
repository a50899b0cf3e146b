//! The other side of an HTTP request: a receiver that keeps what comes.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    sync::{Arc, Mutex},
    thread,
};

/// Answers every request, and keeps what `keep` makes of each.
pub(crate) struct Receiver<T> {
    /// `HOST:PORT`
    pub(crate) at: String,
    kept: Arc<Mutex<Vec<T>>>,
}

impl<T: Clone + Send + 'static> Receiver<T> {
    /// Answers 200.
    pub(crate) fn start(keep: impl Fn(&str, &[u8]) -> Vec<T> + Send + 'static) -> Self {
        Self::answering(keep, || "200 OK\r\n".to_owned())
    }

    /// `answer` gives the status line behind the version, and further headers.
    pub(crate) fn answering(keep: impl Fn(&str, &[u8]) -> Vec<T> + Send + 'static, answer: impl Fn() -> String + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let at = listener.local_addr().expect("its address").to_string();
        let kept = Arc::new(Mutex::new(Vec::new()));
        let own = kept.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (head, body) = request(&stream);
                own.lock().expect("no panic").extend(keep(&head, &body));
                let answer = format!("HTTP/1.1 {}content-length: 2\r\nconnection: close\r\n\r\nok", answer());
                let _gone = (&stream).write_all(answer.as_bytes());
            }
        });
        Self { at, kept }
    }

    pub(crate) fn kept(&self) -> Vec<T> {
        self.kept.lock().expect("no panic").clone()
    }
}

/// The head of a request in lower case, and its body.
fn request(mut stream: &TcpStream) -> (String, Vec<u8>) {
    let mut bytes = Vec::new();
    let mut buffer = [0; 8192];
    loop {
        let read = stream.read(&mut buffer).unwrap_or(0);
        bytes.extend_from_slice(&buffer[..read]);
        let end = bytes.windows(4).position(|part| part == b"\r\n\r\n");
        if let Some(end) = end {
            let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: ")?.parse().ok()).unwrap_or(0);
            if bytes.len() >= end + 4 + length || read == 0 {
                return (head, bytes.split_off(end + 4));
            }
        } else if read == 0 {
            return (String::new(), Vec::new());
        }
    }
}

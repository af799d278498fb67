//! Owns the promises of the wire: a stream of any bytes becomes frames or one named error, however it is cut into chunks.

use bytes::Bytes;
use tidewell_ingest::identity::{Identity, Peer};
use tidewell_ingest::wire::{FrameError, FrameReader, Received};

use crate::input::Input;
use crate::sums;

const MAX_BATCH: usize = 4_096;

/// A stream of a peer, in chunks whose lengths the first bytes give.
///
/// # Panics
/// When chunks change what is read, more is kept than was fed, or a frame does not come back from its own bytes.
pub fn frames(data: &[u8]) {
    let mut input = Input::new(data);
    let cuts = [usize::from(input.u8()), usize::from(input.u8())];
    let stream = input.rest();
    let mut mended = stream.to_vec();
    sums::frames(&mut mended);
    for stream in [stream, &mended] {
        let whole = read(&[stream]);
        let mut chunks = Vec::new();
        let mut rest = stream;
        for cut in cuts.into_iter().cycle() {
            let (chunk, left) = rest.split_at((cut + 1).min(rest.len()));
            chunks.push(chunk);
            rest = left;
            if rest.is_empty() {
                break;
            }
        }
        assert_eq!(whole, read(&chunks), "the same bytes in other chunks");
        for received in &whole.0 {
            if let Received::Frame(frame) = received {
                let mut bytes = Vec::new();
                frame.encode(&mut bytes);
                let again = read(&[&bytes]);
                assert_eq!(again, (vec![received.clone()], None), "a frame's own bytes");
            }
        }
    }
}

fn read(chunks: &[&[u8]]) -> (Vec<Received>, Option<FrameError>) {
    let mut reader = FrameReader::new(MAX_BATCH);
    let (mut received, mut fed) = (Vec::new(), 0);
    for chunk in chunks {
        reader.feed(Bytes::copy_from_slice(chunk));
        fed += chunk.len();
        loop {
            match reader.next() {
                Ok(Some(one)) => received.push(one),
                Ok(None) => break,
                Err(error) => return (received, Some(error)),
            }
        }
        assert!(reader.buffered() <= fed, "more is kept than was fed");
    }
    (received, None)
}

/// A peer's certificate, or a name in one.
///
/// # Panics
/// When a name does not come back from its own URI.
pub fn identity(data: &[u8]) {
    if let Ok(peer) = Peer::from_der(data) {
        assert!(!peer.identities.is_empty(), "a peer has a name");
        for identity in &peer.identities {
            assert_eq!(Identity::from_uri(&identity.to_uri()).as_ref(), Ok(identity));
        }
    }
    let text = String::from_utf8_lossy(data);
    for kind in ["", "tidewell://device/", "tidewell://gateway/"] {
        if let Ok(identity) = Identity::from_uri(&format!("{kind}{text}")) {
            assert!((1..=256).contains(&identity.name().len()));
            assert_eq!(Identity::from_uri(&identity.to_uri()), Ok(identity));
        }
    }
}

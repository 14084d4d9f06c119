//! Inputs that are small and ask for much. Lengths that lie are in `tests/decoders.rs`, which counts what decoders allocate;
//! nothing in this program decompresses anything, so there is no compression to be bombed with.

use bytes::BytesMut;
use jumpgate::base::{ClusterId, Generation, NodeId};
use jumpgate::codec::{Envelope, FrameDecoder, NameHash, Payload, frame};
use jumpgate::config::Config;

#[test]
fn a_frame_that_promises_megabytes_gets_room_for_what_comes() {
    // A sound header, by somebody who knows the cluster's name; the payload never comes.
    let (from, to) = (NodeId::default(), NodeId::default());
    let envelope = Envelope { cluster: ClusterId(1), generation: Generation::ZERO, from, to };
    let payload = Payload::from(vec![0; frame::PAYLOAD_BYTES_MAX]);
    let header = frame::seal(&envelope, NameHash::of("store"), &payload).expect("it is as long as may be");
    let mut buffer = BytesMut::from(&header[..]);
    let mut decoder = FrameDecoder::new(NameHash::of("store"));
    assert_eq!(decoder.decode(&mut buffer), Ok(None));
    assert_eq!(decoder.bytes_wanted(buffer.len()), payload.len());
    assert!(buffer.capacity() <= frame::HEADER_BYTES, "{} bytes were set aside", buffer.capacity());
}

#[test]
fn a_configuration_that_is_nested_very_deep_is_refused() {
    let deep = 20_000;
    let nested = [
        format!("a = {}{}", "[".repeat(deep), "]".repeat(deep)),
        format!("a = {}1{}", "{ a = ".repeat(deep), " }".repeat(deep)),
        format!("{} = 1", vec!["a"; deep].join(".")),
        format!("[{}]", vec!["a"; deep].join(".")),
    ];
    for text in nested {
        Config::parse("cluster.toml", &text, std::iter::empty()).expect_err("it is no configuration");
    }
}

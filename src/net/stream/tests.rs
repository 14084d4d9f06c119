//! What holds over every carrier, on real sockets on loopback.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::sync::oneshot;

use super::testing::{Mute, Raw, Receiver, Sender, Wire, envelope, in_time, sealed};
use super::{Lane, LinkEvent, ListenerOptions};
use crate::base::{Blob, Incarnation, Slot};
use crate::codec::frame::SHORT_PAYLOAD_BYTES_MAX;
use crate::codec::{self, frame};

/// Runs each of these tests over each carrier.
macro_rules! over_each_carrier {
    ($($name:ident),* $(,)?) => {
        mod over_tcp {
            $(#[tokio::test] async fn $name() { super::$name(super::Wire::Tcp).await; })*
        }
        mod over_quic {
            $(#[tokio::test] async fn $name() { super::$name(super::Wire::Quic).await; })*
        }
    };
}

over_each_carrier!(
    messages_arrive_in_order_under_the_envelope_they_were_pushed_with,
    what_is_larger_than_every_buffer_on_the_way_arrives_unchanged,
    a_large_value_stays_in_the_buffer_that_it_came_in_and_keeps_nothing_else_in_memory,
    a_writer_finds_its_peer_again,
    a_writer_writes_what_is_left_before_it_ends,
    each_lane_is_in_order_and_both_arrive_though_the_writer_ends,
    what_a_broken_connection_had_taken_no_longer_fills_the_queue,
    garbage_closes_its_own_connection_only,
    half_a_frame_and_then_silence_is_cut_off,
    connections_beyond_the_cap_are_closed,
);

/// An address for tests that free a port and want it back: one that nothing else on the machine takes ports of.
const QUIET_HOST: &str = if cfg!(target_os = "linux") { "127.0.0.2" } else { "127.0.0.1" };

async fn messages_arrive_in_order_under_the_envelope_they_were_pushed_with(wire: Wire) {
    let mut receiver = Receiver::on_free_port(wire);
    let sender = Sender::start_by_name(wire, format!("localhost:{}", receiver.address.port()));
    for number in 0..1000 {
        sender.push(1 + u128::from(number >= 500), number);
    }
    let mut arrived = Vec::new();
    while arrived.len() < 1000 {
        let (stamp, numbers) = receiver.numbers().await;
        let expected = envelope(1 + u128::from(arrived.len() >= 500));
        assert_eq!(stamp, expected, "after {} messages", arrived.len());
        arrived.extend(numbers);
    }
    assert_eq!(arrived, (0..1000).collect::<Vec<_>>());
    assert!(sender.counters.frames_sent.value() < 100, "messages that wait together travel together");
    sender.stop().await;
    receiver.stop().await;
}

async fn what_is_larger_than_every_buffer_on_the_way_arrives_unchanged(wire: Wire) {
    let mut receiver = Receiver::on_free_port(wire);
    let sender = Sender::start(wire, receiver.address);
    let sizes = [20_usize << 20, 3, 1 << 20, 7 << 20];
    for (nth, size) in sizes.into_iter().enumerate() {
        let value = vec![nth as u8; size];
        sender.outbox.push(Lane::Live, &envelope(1), &value).expect("there is room");
    }
    let mut arrived = Vec::new();
    while arrived.len() < sizes.len() {
        let frame = in_time(receiver.frames.recv()).await.expect("the listener runs");
        for message in frame::messages(&frame.payload) {
            let value: Vec<u8> = codec::decode(message.expect("it is whole")).expect("it is a list of bytes");
            assert!(value.iter().all(|byte| usize::from(*byte) == arrived.len()));
            arrived.push(value.len());
        }
    }
    assert_eq!(arrived, sizes);
    let (sent, came) = (sender.counters.stream_bytes_sent.value(), receiver.counters.stream_bytes_received.value());
    assert_eq!(sent, came, "both ends count the same bytes");
    sender.stop().await;
    receiver.stop().await;
}

async fn a_large_value_stays_in_the_buffer_that_it_came_in_and_keeps_nothing_else_in_memory(wire: Wire) {
    let mut receiver = Receiver::on_free_port(wire);
    let sender = Sender::start(wire, receiver.address);
    // Long ones behind many short ones, which are read together with their beginnings.
    let sizes = [100, SHORT_PAYLOAD_BYTES_MAX, 1 << 20, 50_000, 20, 300_000, 7 << 20, 9];
    for (nth, size) in sizes.into_iter().enumerate() {
        let value = Blob::from(vec![nth as u8; size]);
        sender.outbox.push(Lane::Live, &envelope(nth as u128), &value).expect("there is room");
    }
    for (nth, size) in sizes.into_iter().enumerate() {
        let frame = in_time(receiver.frames.recv()).await.expect("the listener runs");
        let message = frame::messages(&frame.payload).next().expect("there is one").expect("it is whole");
        let value: Blob = frame.decode(message).expect("it is a blob");
        assert_eq!(value, Blob::from(vec![nth as u8; size]));
        let is_shared = frame.payload.as_ptr_range().contains(&value.as_ptr());
        assert_eq!(is_shared, size >= SHORT_PAYLOAD_BYTES_MAX, "{size} bytes");
        if is_shared {
            drop(frame);
            let rest = in_time(alone(value.0)).await.capacity() - size;
            assert_eq!(rest, 0, "{rest} bytes more than a value of {size}");
        }
    }
    sender.stop().await;
    receiver.stop().await;
}

/// These bytes once nobody else has them.
async fn alone(mut bytes: Bytes) -> BytesMut {
    loop {
        match bytes.try_into_mut() {
            Ok(alone) => return alone,
            Err(shared) => bytes = shared,
        }
        tokio::task::yield_now().await;
    }
}

async fn a_writer_finds_its_peer_again(wire: Wire) {
    let mut receiver = Receiver::start(wire, &format!("{QUIET_HOST}:0"), ListenerOptions::default());
    let address = receiver.address;
    let mut sender = Sender::start(wire, address);
    sender.push(1, 1);
    assert_eq!(sender.event().await, LinkEvent::Connected(Slot(1)));
    assert_eq!(receiver.numbers().await, (envelope(1), vec![1]));

    receiver.stop().await;
    assert_eq!(sender.event().await, LinkEvent::Disconnected(Slot(1)));
    sender.push(1, 2);
    sender.push(2, 3);
    assert_eq!(sender.outbox.discard(|envelope| envelope.to.incarnation == Incarnation(2)), 1);

    let mut receiver = Receiver::start(wire, &address.to_string(), ListenerOptions::default());
    assert_eq!(sender.event().await, LinkEvent::Connected(Slot(1)));
    assert_eq!(receiver.numbers().await, (envelope(2), vec![3]));
    sender.stop().await;
    receiver.stop().await;
}

async fn a_writer_writes_what_is_left_before_it_ends(wire: Wire) {
    let mut receiver = Receiver::on_free_port(wire);
    let mut sender = Sender::start(wire, receiver.address);
    assert_eq!(sender.event().await, LinkEvent::Connected(Slot(1)));
    sender.push(1, 7);
    sender.stop().await;
    assert_eq!(receiver.numbers().await, (envelope(1), vec![7]));
    receiver.stop().await;
}

async fn each_lane_is_in_order_and_both_arrive_though_the_writer_ends(wire: Wire) {
    const BULK_BYTES: usize = 100_000;
    let mut receiver = Receiver::on_free_port(wire);
    let mut sender = Sender::start(wire, receiver.address);
    assert_eq!(sender.event().await, LinkEvent::Connected(Slot(1)));
    for number in 0..40_u8 {
        sender.outbox.push(Lane::Bulk, &envelope(1), &vec![number; BULK_BYTES]).expect("there is room");
        sender.outbox.push(Lane::Live, &envelope(1), &vec![number]).expect("there is room");
    }
    sender.stop().await;
    let mut arrived = [Vec::new(), Vec::new()];
    while arrived.iter().any(|lane| lane.len() < 40) {
        let frame = in_time(receiver.frames.recv()).await.expect("the listener runs");
        for message in frame::messages(&frame.payload) {
            let value: Vec<u8> = codec::decode(message.expect("it is whole")).expect("it is a list of bytes");
            arrived[usize::from(value.len() == BULK_BYTES)].push(value[0]);
        }
    }
    let all: Vec<u8> = (0..40).collect();
    assert_eq!(arrived, [all.clone(), all]);
    receiver.stop().await;
}

async fn what_a_broken_connection_had_taken_no_longer_fills_the_queue(wire: Wire) {
    let mute = Mute::listen(wire).await;
    let mut sender = Sender::start(wire, mute.address());
    let ((end, until), (came, coming)) = (oneshot::channel(), oneshot::channel());
    let accepting = tokio::spawn(mute.accept_until(until, came));
    assert_eq!(sender.event().await, LinkEvent::Connected(Slot(1)));
    sender.outbox.push(Lane::Live, &envelope(1), &vec![0_u8; 30 << 20]).expect("there is room");
    // Some of it has come, so all of it was taken from the queue.
    in_time(coming).await.expect("something came");
    assert!(sender.outbox.bytes() > 0);
    end.send(()).expect("it waits");
    in_time(accepting).await.expect("no panic");
    assert_eq!(sender.event().await, LinkEvent::Disconnected(Slot(1)));
    assert_eq!((sender.outbox.bytes(), sender.counters.messages_lost.value()), (0, 1));
    sender.stop().await;
}

async fn garbage_closes_its_own_connection_only(wire: Wire) {
    let mut receiver = Receiver::on_free_port(wire);
    let sender = Sender::start(wire, receiver.address);
    sender.push(1, 1);
    assert_eq!(receiver.numbers().await.1, [1]);

    let mut stranger = Raw::dial(wire, receiver.address).await;
    stranger.write(b"GET / HTTP/1.1\r\n\r\n").await;
    assert!(stranger.until_closed().await.is_empty());
    assert_eq!(receiver.rejection().await, "bad_magic");
    assert_eq!(receiver.counters.rejections().into_iter().collect::<Vec<_>>(), [("bad_magic", 1)]);

    sender.push(1, 2);
    assert_eq!(receiver.numbers().await.1, [2]);
    sender.stop().await;
    receiver.stop().await;
}

async fn half_a_frame_and_then_silence_is_cut_off(wire: Wire) {
    let short = Duration::from_millis(20);
    let options = ListenerOptions { half_frame: short, ..ListenerOptions::default() };
    let mut receiver = Receiver::start(wire, "127.0.0.1:0", options);
    let whole = sealed(&envelope(1));
    let mut silent = Raw::dial(wire, receiver.address).await;
    silent.write(&[&whole[..], &whole[..40]].concat()).await;
    assert_eq!(receiver.numbers().await.1, [7], "the frame before it counts");
    assert_eq!(receiver.rejection().await, "half_frame");

    let mut within_the_first = Raw::dial(wire, receiver.address).await;
    within_the_first.write(&whole[..=frame::HEADER_BYTES]).await;
    assert_eq!(receiver.rejection().await, "half_frame");
    drop((silent, within_the_first));
    receiver.stop().await;
}

async fn connections_beyond_the_cap_are_closed(wire: Wire) {
    let options = ListenerOptions { connections_max: 1, ..ListenerOptions::default() };
    let mut receiver = Receiver::start(wire, "127.0.0.1:0", options);
    let sender = Sender::start(wire, receiver.address);
    sender.push(1, 1);
    assert_eq!(receiver.numbers().await.1, [1]);
    if wire == Wire::Tcp {
        let said = Raw::dial(wire, receiver.address).await.until_closed().await;
        assert!(said.is_empty(), "it is closed without a word");
    } else {
        // It dials again and again, and is told each time before it has written anything.
        let second = Sender::start(wire, receiver.address);
        second.push(1, 3);
        while second.counters.dials_failed.value() < 2 {
            tokio::task::yield_now().await;
        }
        assert_eq!((second.counters.connections_dialed.value(), second.counters.messages_lost.value()), (0, 0));
        second.stop().await;
    }
    assert!(receiver.counters.connections_over_cap.value() > 0);
    sender.push(1, 2);
    assert_eq!(receiver.numbers().await.1, [2]);
    sender.stop().await;
    receiver.stop().await;
}

//! Frames of the stream plane: their messages, decoded and handed to the shards.

use super::Engine;
use crate::base::{Instant, NodeId, ShardId};
use crate::codec::{CodecError, Frame, frame};
use crate::node::message::PeerMessage;
use crate::node::{Destination, ShardCore};
use crate::runtime::pulse::ControlInput;

/// So many messages of a frame are decoded and handed on before the next ones: they stay in the processor's cache meanwhile.
const MESSAGES_AT_ONCE: usize = 128;

impl Engine {
    /// Takes a frame of the stream plane.
    pub fn handle_frame(&self, frame: &Frame) {
        let accepted = self.view.load().accept(&frame.envelope);
        let mut messages = frame::messages(&frame.payload).peekable();
        let mut for_shards: Vec<Vec<PeerMessage>> = vec![Vec::new(); self.shards.len()];
        while messages.peek().is_some() {
            for message in messages.by_ref().take(MESSAGES_AT_ONCE) {
                self.sort(frame, accepted, message, &mut for_shards);
            }
            // Each shard is locked once for them; what is for one shard stays in its order.
            let from = frame.envelope.from;
            for (shard, messages) in
                (0..).map(ShardId).zip(&mut for_shards).filter(|(_, messages)| !messages.is_empty())
            {
                self.with_shard(shard, |occupant, now| {
                    messages.drain(..).for_each(|message| hand_over(&mut occupant.shard, now, from, message));
                });
            }
        }
    }

    /// Puts one message of a frame to those for the same shard.
    fn sort(
        &self,
        frame: &Frame,
        accepted: Result<(), &'static str>,
        message: Result<&[u8], CodecError>,
        for_shards: &mut [Vec<PeerMessage>],
    ) {
        // A message that doesn't decode came whole and unharmed from a peer of this cluster: a program of another version.
        // The rest of the frame is as readable as before.
        let message = match message.and_then(|message| frame.decode::<PeerMessage>(message)) {
            Ok(message) => message,
            Err(error) => return self.rejections.add(error.reason()),
        };
        match (Destination::of(&message, self.options.shards), accepted) {
            // The control core judges for itself.
            (Destination::Control, _) => {
                if let PeerMessage::Control(message) = message {
                    self.tell_control(ControlInput::Message(Box::new((frame.envelope, message))));
                }
            }
            (_, Err(reason)) => self.rejections.add(reason),
            (Destination::Shard(shard), Ok(())) => for_shards[shard.index()].push(message),
            (Destination::EveryShard, Ok(())) => for_shards.iter_mut().for_each(|shard| shard.push(message.clone())),
        }
    }
}

/// Hands a decoded message to a shard.
fn hand_over(core: &mut ShardCore, now: Instant, from: NodeId, message: PeerMessage) {
    match message {
        PeerMessage::Shard(partition, message) => core.handle_message(now, from, partition, message),
        PeerMessage::EveryShard(message) => core.handle_node_message(now, from, message),
        PeerMessage::Answer(id, answer) => core.handle_answer(now, from, id, answer),
        PeerMessage::Control(_) => {}
    }
}

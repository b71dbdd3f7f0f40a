//! People who come and go: transports, producers and consumers without media.

use common::control::{Action, Done, TransportDirection};
use common::ids::{ProducerId, TransportId};
use common::rtp_parameters::{MediaKind, RtpCapabilities};

use super::client::{World, opus, vp8};

/// People who stay.
const RESIDENTS: usize = 9;

struct Resident {
    name: String,
    receives: TransportId,
    producers: [ProducerId; 2],
}

/// A room of nine, which a tenth joins and leaves: two transports and producers, 18 consumers each way.
pub struct Room {
    world: World,
    capabilities: RtpCapabilities,
    residents: Vec<Resident>,
}

impl Room {
    pub fn new() -> Self {
        let mut world = World::new();
        let Done::Room { capabilities } = world.done("guest", Action::OpenRoom { codecs: None }) else {
            panic!("a room")
        };
        let mut room = Self { world, capabilities, residents: Vec::new() };
        for index in 0..RESIDENTS {
            let resident = room.join(format!("resident{index}"));
            room.residents.push(resident);
        }
        room
    }

    /// The tenth comes, takes everybody's sound and picture, is taken by everybody, and leaves.
    pub fn visit(&mut self) {
        let guest = self.join("guest".into());
        self.world.done(&guest.name, Action::RemovePeer);
    }

    fn join(&mut self, name: String) -> Resident {
        self.world.done(&name, Action::AddPeer);
        let sends = self.transport(&name, TransportDirection::Send);
        let receives = self.transport(&name, TransportDirection::Recv);
        let producers = [(MediaKind::Audio, opus()), (MediaKind::Video, vp8())].map(|(kind, rtp)| {
            let action = Action::Produce { transport: sends.clone(), kind, rtp, paused: false };
            let Done::Producer { id } = self.world.done(&name, action) else { panic!("a producer") };
            id
        });
        let newcomer = Resident { name, receives, producers };
        for index in 0..self.residents.len() {
            for producer in 0..2 {
                let resident = &self.residents[index];
                let theirs = resident.producers[producer].clone();
                let (who, at) = (resident.name.clone(), resident.receives.clone());
                self.consume(&who, at, newcomer.producers[producer].clone());
                self.consume(&newcomer.name, newcomer.receives.clone(), theirs);
            }
        }
        newcomer
    }

    fn transport(&mut self, name: &str, direction: TransportDirection) -> TransportId {
        let action = Action::CreateTransport { direction, force_tcp: false };
        let Done::Transport(info) = self.world.done(name, action) else { panic!("a transport") };
        let dtls = self.world.client_dtls();
        self.world.done(name, Action::ConnectTransport { transport: info.id.clone(), dtls });
        info.id
    }

    fn consume(&mut self, name: &str, transport: TransportId, producer: ProducerId) {
        let action = Action::Consume { transport, producer, capabilities: self.capabilities.clone() };
        let Done::Consumer(info) = self.world.done(name, action) else { panic!("a consumer") };
        self.world.done(name, Action::ResumeConsumer { consumer: info.id });
    }
}

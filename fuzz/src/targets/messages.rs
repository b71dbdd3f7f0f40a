//! What a client says over its WebSocket, as it is: whatever the text, the answers are JSON, few, and for those concerned.

use serde_json::Value;

use crate::targets::hub::script::{World, join};

/// What may come of one message: this world has four people, so nothing is told to more.
const ANSWERS_MAX: usize = 40;

/// First byte: 0 in a call that rings, 1 in one that runs, 2 in a room. Messages are divided by zero bytes.
pub fn run(data: &[u8]) {
    let Some((&scene, text)) = data.split_first() else { return };
    let Ok(text) = std::str::from_utf8(text) else { return };
    let mut world = World::call(scene % 3 == 1);
    if scene % 3 == 2 {
        world.say(1, join("r"));
        world.say(2, join("r"));
    }
    for message in text.split('\0').take(20) {
        world.sent.clear();
        world.put_text(1, message);
        assert!(world.sent.len() <= ANSWERS_MAX, "{} answers", world.sent.len());
        for (conn, answer) in &world.sent {
            assert!(answer["type"].is_string(), "{answer}");
            assert!(*conn != 9 || !answer["callId"].is_string() || concerns_mallory(message), "{answer}");
        }
    }
}

/// Mallory hears of a call only when somebody rings her.
fn concerns_mallory(message: &str) -> bool {
    serde_json::from_str::<Value>(message).is_ok_and(|message| message.to_string().contains("mallory"))
}

/// One message of each kind.
pub fn seeds() -> Vec<Vec<u8>> {
    let calls = [
        r#"{"type":"call-initiate","callId":"d","recipientIds":["carol","mallory"],"callType":"audio"}"#,
        r#"{"type":"offer","callId":"c","recipientId":"bob","sdp":{"type":"offer","sdp":"v=0"}}"#,
        r#"{"type":"ice-candidate","callId":"c","recipientId":"bob","candidate":null}"#,
        r#"{"type":"call-upgrade","callId":"c"}"#,
        r#"{"type":"call-end","callId":"c","forAll":true}"#,
        r#"{"type":"call-reject","callId":"c","reason":"busy"}"#,
        r#"{"type":"quality-report","callId":"c","metrics":{"audioPacketsLost":1,"roundTripTime":0.1,"videoJitter":1e308}}"#,
    ];
    let rooms = [
        r#"{"type":"join-room","requestId":"x","roomId":"s","name":"A","create":{"codecs":["VP8"],"maxPeers":3,"e2ee":true}}"#,
        r#"{"type":"create-transport","requestId":1,"direction":"send","forceTcp":true}"#,
        r#"{"type":"connect-transport","requestId":1,"transportId":"t","dtlsParameters":{"role":"client","fingerprints":[{"algorithm":"sha-256","value":"00"}]}}"#,
        r#"{"type":"produce","requestId":2,"transportId":"t","kind":"video","source":"camera","rtpParameters":{"codecs":[],"encodings":[{"ssrc":1}]},"appData":{"a":[1]}}"#,
        r#"{"type":"consume","requestId":3,"transportId":"t","producerId":"p","rtpCapabilities":{"codecs":[]}}"#,
        r#"{"type":"set-preferred-layers","requestId":4,"consumerId":"k","spatialLayer":1}"#,
        r#"{"type":"produce-data","requestId":5,"transportId":"t","sctpStreamParameters":{"streamId":0,"ordered":false,"maxRetransmits":3},"label":"l"}"#,
        r#"{"type":"get-stats","requestId":6}"#,
        r#"{"type":"close-room","requestId":7}"#,
        r#"{"type":"leave-room","requestId":8}"#,
    ];
    let each = |scene: u8, messages: &[&str]| -> Vec<Vec<u8>> {
        messages.iter().map(|message| [&[scene][..], message.as_bytes()].concat()).collect()
    };
    let mut seeds = each(1, &calls);
    seeds.extend(each(2, &rooms));
    seeds.push([&[0][..], calls.join("\0").as_bytes()].concat());
    seeds
}

//! Whatever four users send in whatever order: no panic, nothing to connections that are gone (`World` asserts it), and
//! nothing left when all have gone, here or in the SFU, whose queue may be full at times.

use proptest::prelude::*;
use serde_json::{Value, json};

use crate::script::{World, initiate, join, produce};

fn message() -> impl Strategy<Value = Value> {
    let call = prop::sample::select(vec!["c", "d", ""]);
    let user = prop::sample::select(vec!["u1", "u2", "u3", "u4", "nobody"]);
    let kind = prop::sample::select(vec![
        "call-answer",
        "call-reject",
        "call-end",
        "call-invite",
        "call-upgrade",
        "offer",
        "answer",
        "renegotiate",
        "ice-candidate",
        "call-initiate",
        "join-room",
        "leave-room",
        "produce",
        "consume",
        "quality-report",
        "close-producer",
        "create-transport",
        "close-room",
        "nonsense",
    ]);
    prop_oneof![
        (call.clone(), user.clone()).prop_map(|(call, user)| initiate(call, &[user])),
        Just(join("r")),
        Just(join("s")),
        Just(produce()),
        Just(json!(null)),
        (kind, call, user, any::<bool>()).prop_map(|(kind, call, user, flag)| json!({
            "type": kind, "callId": call, "recipientId": user, "recipientIds": [user], "callType": "audio",
            "sdp": "v=0", "candidate": {}, "forAll": flag, "requestId": 7, "roomId": "r", "producerId": "p",
            "direction": if flag { "send" } else { "up" }, "metrics": { "roundTripTime": 0.1 },
        })),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]
    #[test]
    fn nothing_is_left_of_anybody(steps in prop::collection::vec((1..5u64, 0..12u8, message()), 1..60)) {
        let mut world = World::new();
        for conn in 1..5 {
            world.user(conn, &format!("u{conn}"));
        }
        let mut next = 5;
        let mut conns = [1, 2, 3, 4];
        for (who, what, message) in steps {
            let slot = usize::try_from(who).expect("small") - 1;
            match what {
                0 => {
                    world.lose(conns[slot], Some(1006));
                    world.user(next, &format!("u{who}"));
                    conns[slot] = next;
                    next += 1;
                }
                1 => world.wait(20, &[]),
                2 => world.queue_full = !world.queue_full,
                _ => world.say(conns[slot], message),
            }
        }
        for conn in world.alive.clone() {
            world.lose(conn, Some(1000));
        }
        world.queue_full = false;
        world.wait(60, &[]);
        prop_assert_eq!(world.hub.stats(), World::new().hub.stats());
        prop_assert!(world.sfu.is_empty(), "the SFU still has {:?}", world.sfu);
    }
}

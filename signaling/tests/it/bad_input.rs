//! Every message that clients may send, made wrong in every way, on the hub and a real SFU core: each gets the answer that
//! `docs/protocol.md` promises, changes nothing, and leaves the session usable.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use crate::scene::{Scene, rtp};
use crate::script::initiate;

/// One message that is valid for Alice, and what is wrong in other hands or at another time.
struct Example {
    message: Value,
    /// Without any of these it is refused, beside `requestId` in requests.
    required: &'static [&'static str],
    /// What somebody else has to say first.
    before: Option<(u64, Value)>,
    /// A field, somebody else's id for it, and the code.
    foreign: Vec<(&'static str, Value, &'static str)>,
    /// What the same message gets the second time.
    again: &'static str,
    /// … from somebody who is in no call and no room; `None` where anybody may.
    outside: Option<&'static str>,
    /// … from Alice when she has hung up and left.
    afterwards: &'static str,
}

/// In `afterwards`: it waits for its call, which does not come.
const HELD: &str = "held";

fn example(message: Value, required: &'static [&'static str]) -> Example {
    let is_request = message.get("requestId").is_some();
    let (outside, afterwards) =
        if is_request { ("room-not-found", "room-not-found") } else { ("not-in-call", "call-not-found") };
    Example {
        message,
        required,
        before: None,
        foreign: vec![],
        again: "ok",
        outside: Some(outside),
        afterwards,
    }
}

impl Example {
    fn kind(&self) -> &str {
        self.message["type"].as_str().expect("a type")
    }

    fn is_request(&self) -> bool {
        self.message.get("requestId").is_some()
    }

    fn foreign(mut self, field: &'static str, id: Value, code: &'static str) -> Self {
        self.foreign.push((field, id, code));
        self
    }

    fn again(self, again: &'static str) -> Self {
        Self { again, ..self }
    }

    fn with(&self, field: &str, value: Value) -> Value {
        let mut message = self.message.clone();
        message[field] = value;
        message
    }
}

/// The list: every type that the parser knows (a test asserts it), in the order of `docs/protocol.md`.
fn examples(scene: &Scene) -> Vec<Example> {
    let mut all = calls();
    all.extend(rooms(scene));
    all.extend(media(scene));
    let metrics =
        json!({ "audioPacketsLost": 1, "videoPacketsLost": 2, "packetsReceived": 90, "roundTripTime": 0.01 });
    all.push(Example {
        outside: None,
        afterwards: "ok",
        foreign: vec![("callId", json!("m"), "ok"), ("callId", json!("unknown"), "ok")],
        ..example(json!({ "type": "quality-report", "callId": "c", "metrics": metrics }), &["metrics"])
    });
    all
}

fn calls() -> Vec<Example> {
    let about = |kind: &str, more: Value, required| {
        let mut message = json!({ "type": kind, "callId": "c" });
        for (key, value) in more.as_object().expect("fields") {
            message[key] = value.clone();
        }
        let example = example(message, required).foreign("callId", json!("m"), "not-in-call");
        if kind.starts_with("call") {
            example.foreign("callId", json!("unknown"), "call-not-found")
        } else {
            example
        }
    };
    let rings = |kind: &str, more: Value| {
        let mut example = about(kind, more, &["callId"]);
        example.message["callId"] = json!("d");
        Example { before: Some((2, initiate("d", &["alice"]))), ..example }
    };
    let relayed = |kind: &str, value: &'static str| {
        let more = json!({ "recipientId": "bob", value: { "any": "JSON" } });
        about(kind, more, &["callId", "recipientId"]).foreign(
            "recipientId",
            json!("mallory"),
            "recipient-unavailable",
        )
    };
    let mut candidate = relayed("ice-candidate", "candidate");
    candidate.foreign.pop();
    vec![
        Example {
            outside: None,
            afterwards: "ok",
            ..example(initiate("n", &["carol"]), &["callId", "recipientIds", "callType"])
                .foreign("callId", json!("m"), "call-exists")
                .foreign("callId", json!("c"), "call-exists")
                .again("call-exists")
        },
        Example { outside: Some("call-not-found"), ..rings("call-answer", json!({})) },
        Example {
            outside: Some("call-not-found"),
            ..rings("call-reject", json!({ "reason": "busy" })).again("call-not-found")
        },
        about("call-end", json!({ "forAll": true }), &["callId"]).again("call-not-found"),
        about("call-invite", json!({ "recipientIds": ["carol"] }), &["callId", "recipientIds"]),
        about("call-upgrade", json!({}), &["callId"]),
        Example { afterwards: HELD, ..relayed("offer", "sdp") },
        relayed("answer", "sdp"),
        Example { afterwards: HELD, ..relayed("renegotiate", "sdp") },
        Example { afterwards: HELD, ..candidate }.foreign("recipientId", json!("mallory"), "ok"),
    ]
}

fn request(kind: &str, more: Value, required: &'static [&'static str]) -> Example {
    let mut message = json!({ "type": kind, "requestId": 7 });
    for (key, value) in more.as_object().expect("fields") {
        message[key] = value.clone();
    }
    example(message, required)
}

fn rooms(scene: &Scene) -> Vec<Example> {
    let create = json!({ "codecs": ["opus"], "maxPeers": 4, "e2ee": true });
    let [bobs, far] = ["bobs-producer", "far-producer"].map(|name| scene.id(name));
    vec![
        Example {
            outside: None,
            afterwards: "ok",
            ..request("join-room", json!({ "roomId": "t", "name": "Alice", "create": create }), &["roomId"])
        },
        Example { outside: Some("ok"), afterwards: "ok", ..request("leave-room", json!({}), &[]) },
        request("mute-peer", json!({ "peerId": "bob", "producerId": bobs }), &["peerId", "producerId"])
            .foreign("peerId", json!("mallory"), "producer-not-found")
            .foreign("producerId", far, "producer-not-found"),
        request("remove-peer", json!({ "peerId": "bob", "reason": "noise" }), &["peerId"])
            .foreign("peerId", json!("mallory"), "peer-not-found")
            .again("peer-not-found"),
        request("close-room", json!({}), &[]).again("room-not-found"),
    ]
}

fn media(scene: &Scene) -> Vec<Example> {
    let capabilities = &scene.router_capabilities;
    // A request about one object of Alice's, which Bob and Mallory have as well.
    let of = |kind: &str, field: &'static str, own: &str, foreign: [&str; 2], code: &'static str| {
        let of = |name: &str| (field, scene.id(name), code);
        let mut example = request(kind, json!({ field: scene.id(own) }), Box::leak(Box::new([field])));
        example.foreign = foreign.into_iter().map(of).chain([(field, json!("unknown"), code)]).collect();
        example
    };
    let transport =
        |kind, own| of(kind, "transportId", own, ["bobs-send", "far-send"], "transport-not-found");
    let producer =
        |kind| of(kind, "producerId", "producer", ["bobs-producer", "far-producer"], "producer-not-found");
    let consumer =
        |kind| of(kind, "consumerId", "consumer", ["bobs-consumer", "producer"], "consumer-not-found");
    let also = |mut example: Example, required, more: Value| {
        for (key, value) in more.as_object().expect("fields") {
            example.message[key] = value.clone();
        }
        Example { required, ..example }
    };
    let fingerprint = vec!["AB"; 32].join(":");
    let dtls =
        json!({ "role": "client", "fingerprints": [{ "algorithm": "sha-256", "value": fingerprint }] });
    let app_data = json!({ "any": "JSON" });
    let produce = json!({ "kind": "audio", "rtpParameters": rtp(22, "5"), "source": "screen-audio", "paused": true,
                          "appData": app_data });
    let produce_data = json!({ "sctpStreamParameters": { "streamId": 7, "ordered": true }, "label": "l",
                               "protocol": "p", "appData": app_data });
    let layers = json!({ "spatialLayer": 1, "temporalLayer": 2 });
    let no_stats = |mut example: Example| {
        example.required = &[];
        example
    };
    vec![
        request("create-transport", json!({ "direction": "send", "forceTcp": true }), &["direction"]),
        also(
            transport("connect-transport", "spare"),
            &["transportId", "dtlsParameters"],
            json!({ "dtlsParameters": dtls }),
        )
        .again("already-connected"),
        transport("restart-ice", "send"),
        transport("close-transport", "spare").again("transport-not-found"),
        also(transport("produce", "send"), &["transportId", "kind", "rtpParameters", "source"], produce)
            .foreign("transportId", scene.id("recv"), "invalid-parameters")
            .again("invalid-parameters"),
        producer("pause-producer"),
        producer("resume-producer"),
        producer("close-producer").again("producer-not-found"),
        also(
            of("consume", "transportId", "recv", ["bobs-recv", "far-recv"], "transport-not-found"),
            &["transportId", "producerId", "rtpCapabilities"],
            json!({ "producerId": scene.id("bobs-producer"), "rtpCapabilities": capabilities }),
        )
        .foreign("transportId", scene.id("send"), "invalid-parameters")
        .foreign("producerId", scene.id("far-producer"), "producer-not-found")
        .foreign("rtpCapabilities", json!({ "codecs": [] }), "cannot-consume"),
        consumer("pause-consumer"),
        consumer("resume-consumer"),
        consumer("close-consumer").again("consumer-not-found"),
        also(consumer("set-preferred-layers"), &["consumerId", "spatialLayer"], layers),
        also(consumer("set-priority"), &["consumerId", "priority"], json!({ "priority": 9 })).foreign(
            "priority",
            json!(0),
            "invalid-parameters",
        ),
        consumer("request-key-frame"),
        also(transport("produce-data", "send"), &["transportId", "sctpStreamParameters"], produce_data)
            .foreign("sctpStreamParameters", json!({ "streamId": 65535 }), "invalid-parameters")
            .again("invalid-parameters"),
        also(
            of("consume-data", "transportId", "recv", ["bobs-recv", "far-recv"], "transport-not-found"),
            &["transportId", "dataProducerId"],
            json!({ "dataProducerId": scene.id("bobs-data") }),
        )
        .foreign("dataProducerId", scene.id("far-data"), "data-producer-not-found"),
        of(
            "close-data-producer",
            "dataProducerId",
            "data",
            ["bobs-data", "far-data"],
            "data-producer-not-found",
        )
        .again("data-producer-not-found"),
        of(
            "close-data-consumer",
            "dataConsumerId",
            "data-consumer",
            ["bobs-data-consumer", "data"],
            "data-consumer-not-found",
        )
        .again("data-consumer-not-found"),
        no_stats(transport("get-stats", "send")),
        no_stats(producer("get-stats")),
        no_stats(consumer("get-stats")),
    ]
}

/// Each example in a scene of its own.
fn each(check: impl Fn(&mut Scene, &Example)) {
    let count = examples(&Scene::new()).len();
    for number in 0..count {
        let mut scene = Scene::new();
        let example = examples(&scene).swap_remove(number);
        check(&mut scene, &example);
    }
}

/// This message of Alice's (or of nobody) has no effect but this answer.
fn refused(scene: &mut Scene, conn: u64, message: &Value, code: &str) {
    scene.world.wait(1, &[]);
    let before = scene.counts();
    assert_eq!(scene.code(conn, message), code, "{message:.500}");
    let answered_request = scene.world.told(conn, "response").is_some();
    if answered_request {
        let response = scene.world.told(conn, "response").expect("just seen");
        assert_eq!(response["requestId"], message["requestId"], "{message:.500}");
    }
    assert_eq!(scene.counts(), before, "{message:.500}");
    scene.assert_works(message);
}

#[test]
fn the_list_has_every_message_that_clients_may_send() {
    let scene = Scene::new();
    let listed: BTreeSet<String> = examples(&scene).iter().map(|example| example.kind().to_owned()).collect();
    let known: BTreeSet<String> = signaling::message_types().map(str::to_owned).collect();
    assert_eq!(listed, known);
}

#[test]
fn a_message_without_what_it_needs_is_invalid() {
    each(|scene, example| {
        let own: &[&str] = if example.is_request() { &["requestId"] } else { &[] };
        for field in example.required.iter().chain(own).chain(&["type"]) {
            let mut message = example.message.clone();
            message.as_object_mut().expect("an object").remove(*field);
            refused(scene, 1, &message, "invalid-message");
        }
    });
}

/// Values of this type do for the field, beside those like the example's.
fn also_fits(example: &Example, field: &str, value: &Value) -> bool {
    let optional =
        !example.required.contains(&field) && !["requestId", "forAll", "forceTcp", "paused"].contains(&field);
    match field {
        "sdp" | "candidate" | "appData" => true,
        "requestId" => value.is_number() || value.is_string(),
        "label" | "protocol" => false,
        _ => optional && value.is_null(),
    }
}

#[test]
fn a_field_of_another_type_is_invalid() {
    let kinds = [json!(null), json!(true), json!(-7.5), json!("text"), json!([]), json!({})];
    each(|scene, example| {
        let fields = example.message.as_object().expect("an object").clone();
        for (field, valid) in &fields {
            let same = |value: &&Value| std::mem::discriminant(*value) == std::mem::discriminant(valid);
            for value in kinds.iter().filter(|value| !same(value) && !also_fits(example, field, value)) {
                refused(scene, 1, &example.with(field, value.clone()), "invalid-message");
            }
        }
    });
}

/// One more than the limit, or outside of it, and the code.
fn beyond(field: &str) -> Vec<(Value, &'static str)> {
    let invalid = |values: Vec<Value>| values.into_iter().map(|value| (value, "invalid-message")).collect();
    match field {
        "callId" | "recipientId" | "roomId" | "transportId" | "producerId" | "consumerId"
        | "dataProducerId" | "dataConsumerId" | "peerId" => {
            invalid(vec![json!("x".repeat(129)), json!(""), json!("a b"), json!("ü"), json!("a\nb")])
        }
        "recipientIds" => {
            let many: Vec<String> = (0..33).map(|n| format!("user-{n}")).collect();
            invalid(vec![json!(many), json!([]), json!(["alice"]), json!(["x".repeat(129)]), json!([7])])
        }
        "requestId" => invalid(vec![json!("x".repeat(129))]),
        "callType" | "kind" | "direction" => invalid(vec![json!("smell"), json!("")]),
        "spatialLayer" | "temporalLayer" | "priority" => invalid(vec![json!(256), json!(-1), json!(1.5)]),
        "create" => invalid(vec![
            json!({ "codecs": "opus" }),
            json!({ "codecs": [7] }),
            json!({ "maxPeers": -1 }),
            json!({ "e2ee": 1 }),
        ]),
        "metrics" => invalid(vec![json!({ "roundTripTime": "fast" }), json!({ "audioPacketsLost": null })]),
        "source" | "label" | "protocol" => vec![(json!("x".repeat(257)), "invalid-parameters")],
        "appData" => vec![(json!({ "x": "y".repeat(4096) }), "invalid-parameters")],
        "type" => vec![(json!("make-coffee"), "unknown-type"), (json!(""), "invalid-message")],
        _ => vec![],
    }
}

#[test]
fn what_is_too_long_too_large_or_no_word_of_the_protocol_is_refused() {
    each(|scene, example| {
        for field in example.message.as_object().expect("an object").keys() {
            for (value, code) in beyond(field) {
                refused(scene, 1, &example.with(field, value), code);
            }
        }
    });
}

#[test]
fn names_and_reasons_are_cut_where_they_are_too_long() {
    let mut scene = Scene::new();
    let long = "ü".repeat(100_000);
    scene.say(2, initiate("d", &["alice"]));
    scene.say(1, json!({ "type": "call-reject", "callId": "d", "reason": long }));
    let told = scene.world.told(2, "call-rejected").expect("told")["reason"].clone();
    assert_eq!(told.as_str().map(|reason| reason.chars().count()), Some(200));
    scene.say(8, json!({ "type": "join-room", "requestId": 1, "roomId": "r", "name": long }));
    let told = scene.world.told(2, "peer-joined").expect("told")["name"].clone();
    assert_eq!(told.as_str().map(|name| name.chars().count()), Some(128));
    scene.say(1, json!({ "type": "remove-peer", "requestId": 1, "peerId": "nobody", "reason": long }));
    let told = scene.world.told(8, "removed").expect("told")["reason"].clone();
    assert_eq!(told.as_str().map(|reason| reason.chars().count()), Some(256));
}

#[test]
fn what_is_somebody_elses_is_answered_as_if_it_did_not_exist() {
    each(|scene, example| {
        for (field, id, code) in &example.foreign {
            refused(scene, 1, &example.with(field, id.clone()), code);
        }
    });
}

#[test]
fn who_is_in_no_call_and_no_room_can_do_nothing_there() {
    each(|scene, example| {
        if let Some(code) = example.outside {
            refused(scene, 8, &example.message, code);
        }
    });
}

#[test]
fn unknown_fields_are_ignored_and_a_forged_sender_is_one() {
    each(|scene, example| {
        if let Some((conn, message)) = &example.before {
            scene.say(*conn, message.clone());
        }
        let mut message = example.with("unknown", json!({ "deep": [[[]]] }));
        message["senderId"] = json!("mallory");
        message["userId"] = json!("mallory");
        assert_eq!(scene.code(1, &message), "ok", "{message:.500}");
        assert!(!json!(scene.world.sent).to_string().contains("mallory"), "{:?}", scene.world.sent);
    });
}

#[test]
fn what_is_said_twice_is_two_messages_and_each_request_has_its_reply() {
    each(|scene, example| {
        if let Some((conn, message)) = &example.before {
            scene.say(*conn, message.clone());
        }
        for code in ["ok", example.again] {
            assert_eq!(scene.code(1, &example.message), code, "{:.500}", example.message);
            let replies = scene.world.sent.iter().filter(|(to, m)| *to == 1 && m["type"] == "response");
            assert_eq!(replies.count(), usize::from(example.is_request()), "{:.500}", example.message);
        }
    });
}

#[test]
fn after_hanging_up_and_leaving_there_is_nothing_to_name() {
    each(|scene, example| {
        scene.say(1, json!({ "type": "call-end", "callId": "c" }));
        scene.say(1, json!({ "type": "leave-room", "requestId": 1 }));
        let code = scene.code(1, &example.message);
        if example.afterwards == HELD {
            assert_eq!(code, "ok");
            scene.world.wait(4, &[]);
            let told = scene.world.told(1, "error").expect("told after three seconds");
            assert_eq!(told["code"], "call-not-found", "{:.500}", example.message);
        } else {
            assert_eq!(code, example.afterwards, "{:.500}", example.message);
        }
    });
}

/// Every value inside of `value`, replaced by each of `kinds`, and every one left out.
fn mutants(value: &Value, kinds: &[Value]) -> Vec<Value> {
    let mut mutants = Vec::new();
    let mut inside = |wrong: Vec<Value>, put: &dyn Fn(Option<Value>) -> Value| {
        mutants.extend(wrong.into_iter().chain(kinds.iter().cloned()).map(|wrong| put(Some(wrong))));
        mutants.push(put(None));
    };
    match value {
        Value::Object(fields) => {
            for (key, field) in fields {
                inside(self::mutants(field, kinds), &|wrong| {
                    let mut fields = fields.clone();
                    match wrong {
                        Some(wrong) => fields.insert(key.clone(), wrong),
                        None => fields.remove(key),
                    };
                    Value::Object(fields)
                });
            }
        }
        Value::Array(items) => {
            for (at, item) in items.iter().enumerate() {
                inside(self::mutants(item, kinds), &|wrong| {
                    let mut items = items.clone();
                    match wrong {
                        Some(wrong) => items[at] = wrong,
                        None => drop(items.remove(at)),
                    }
                    Value::Array(items)
                });
            }
        }
        _ => {}
    }
    mutants
}

#[test]
fn media_parameters_that_are_wrong_anywhere_inside_are_refused_by_name_or_do_no_harm() {
    let kinds =
        [json!(null), json!(-1), json!(1e300), json!("x".repeat(300)), json!([[]]), json!({ "x": {} })];
    let codes = [
        "ok",
        "invalid-message",
        "invalid-parameters",
        "cannot-consume",
        "already-connected",
        "limit-reached",
    ];
    let mut seen = BTreeSet::new();
    for (kind, field) in [
        ("connect-transport", "dtlsParameters"),
        ("produce", "rtpParameters"),
        ("produce-data", "sctpStreamParameters"),
        ("consume", "rtpCapabilities"),
    ] {
        let mut scene = Scene::new();
        let example = examples(&scene).into_iter().find(|it| it.kind() == kind).expect("in the list");
        for mutant in mutants(&example.message[field], &kinds) {
            scene.world.wait(1, &[]);
            let message = example.with(field, mutant);
            let code = scene.code(1, &message);
            assert!(codes.contains(&code.as_str()), "{message} → {code}");
            scene.assert_works(&message);
            seen.insert(code);
        }
    }
    assert!(seen.contains("invalid-message") && seen.contains("invalid-parameters"), "{seen:?}");
}

#[test]
fn nothing_of_all_that_is_left_when_everybody_has_gone() {
    let mut scene = Scene::new();
    for example in examples(&scene) {
        for conn in [1, 2, 8, 9] {
            scene.world.wait(1, &[]);
            scene.say(conn, example.message.clone());
        }
    }
    for conn in scene.world.alive.clone() {
        scene.say(conn, json!({ "type": "leave-room", "requestId": 1 }));
        scene.world.lose(conn, Some(1000));
    }
    scene.world.wait(4, &[]);
    scene.world.user(20, "late");
    scene.say(20, json!({ "type": "leave-room", "requestId": 1 }));
    scene.world.lose(20, Some(1000));
    assert_eq!(scene.world.hub.stats(), crate::script::World::new().hub.stats());
    assert_eq!(scene.transports(), 0);
}

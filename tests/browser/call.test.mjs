// Calls between two people with the SDK, in headless Chromium: media both ways, what people do during a call, and what
// networks, pages and third persons do to it.
import assert from 'node:assert/strict';
import { describe, test } from 'node:test';
import { openPage, relayThrough, setUp, sleep, startProxy, startServer, startUdpProxy, until } from './harness.mjs';

let server, bed, chromium;
setUp((ready) => ({ server, bed, chromium } = ready));

/** Runs in the page: what a small app would keep of a call. */
function prepare() {
  // Chromium's second fake camera sees depth (Y16), which WebRTC cannot send.
  const { mediaDevices } = navigator;
  const all = mediaDevices.enumerateDevices.bind(mediaDevices);
  mediaDevices.enumerateDevices = async () => (await all()).filter(({ label }) => !label.startsWith('fake_device_1'));
  window.t = { rings: [], data: [], states: [], errors: [], ended: null, room: null };
  t.keep = (call) => {
    t.call = call;
    call.on('data', (data) => t.data.push(typeof data === 'string' ? data : `${data.byteLength} bytes`));
    call.on('state', (state) => t.states.push(state));
    call.on('error', (error) => t.errors.push(String(error)));
    call.on('upgraded', (roomId) => (t.room = roomId));
    call.on('ended', (reason, by) => (t.ended = { reason, by }));
    // Decoding needs somebody who watches and hears: a muted element takes no sound.
    const element = Object.assign(document.createElement('video'), { autoplay: true, srcObject: call.remote });
    document.body.append(element);
    t.element = element;
  };
  t.connect = async (url, token, resume) => {
    t.signal = new Signal({ url, token: () => token, resume });
    Call.listen(t.signal, (incoming) => {
      t.rings.push(incoming);
      incoming.on('ended', (reason) => (t.ringEnded = reason));
    });
    return t.signal.connect();
  };
  t.media = async () => {
    const out = { audio: 0, frames: 0, width: 0, packets: 0, lastPicture: 0 };
    for (const stat of (await t.call.peerConnection.getStats()).values()) {
      if (stat.type !== 'inbound-rtp') continue;
      out.packets += stat.packetsReceived;
      if (stat.kind === 'audio') out.audio = stat.totalAudioEnergy ?? 0;
      else if ((stat.lastPacketReceivedTimestamp ?? 0) >= out.lastPicture) {
        // A stream that has ended may still be listed: the newest counts.
        [out.frames, out.width, out.lastPicture] = [stat.framesDecoded ?? 0, stat.frameWidth ?? 0, stat.lastPacketReceivedTimestamp ?? 0];
      }
    }
    return out;
  };
  /** The brightness of the picture that arrives: a camera that is off sends black. */
  t.brightness = () => {
    const canvas = Object.assign(document.createElement('canvas'), { width: 32, height: 18 });
    const context = canvas.getContext('2d');
    context.drawImage(t.element, 0, 0, 32, 18);
    const { data } = context.getImageData(0, 0, 32, 18);
    let sum = 0;
    for (let at = 0; at < data.length; at += 4) sum += data[at] + data[at + 1] + data[at + 2];
    return sum / (data.length / 4) / 3;
  };
}

async function signedIn(user, { ws = server.ws, from = server, relay } = {}) {
  const page = await openPage(chromium, bed.url);
  if (relay) await page.evaluate(relayThrough, relay);
  await page.evaluate(prepare);
  await page.evaluate((ws, token) => t.connect(ws, token), ws, await from.token(user));
  return page;
}

const place = (page, to, type) => page.evaluate(async (to, type) => t.keep(await Call.place(t.signal, to, type)), to, type);
const take = async (page) => {
  await until('it rings', () => page.evaluate(() => t.rings.length > 0));
  await page.evaluate(async () => t.keep(await t.rings.at(-1).answer()));
};
const state = (page) => page.evaluate(() => t.call.state);
const connected = (...pages) => Promise.all(pages.map((page, n) => until(`side ${n} is connected`, async () => (await state(page)) === 'connected')));
const ended = (page, limitMs) => until('the call ends', () => page.evaluate(() => t.ended), limitMs);
const media = (page) => page.evaluate(() => t.media());
const close = (...pages) => Promise.all(pages.map((page) => page.browserContext().close()));

let callers = 0;
/** Two people of their own in a call that is up. */
async function pair(type, options) {
  const [one, two] = [`ann${++callers}`, `bob${callers}`];
  const pages = [await signedIn(one, options), await signedIn(two, options)];
  await place(pages[0], two, type);
  await take(pages[1]);
  await connected(...pages);
  return { ann: pages[0], bob: pages[1], names: [one, two] };
}

/** Both sides decode more than they had when this was called. */
async function mediaGrows(pages, { video }) {
  for (const [n, page] of pages.entries()) {
    let first;
    await until(`media arrives at side ${n}`, async () => {
      const now = await media(page);
      first ??= now;
      return now.audio > first.audio && (!video || (now.frames > first.frames + 10 && now));
    });
  }
}

const hangUp = async (ann, bob) => {
  await ann.evaluate(() => t.call.hangUp());
  assert.equal((await ended(bob)).reason, 'hangup');
  for (const page of [ann, bob]) assert.deepEqual(page.errors, []);
  for (const page of [ann, bob]) assert.deepEqual(await page.evaluate(() => t.errors), []);
  await close(ann, bob);
};

describe('media', () => {
  test('an audio call is heard on both sides', async () => {
    const { ann, bob } = await pair('audio');
    await mediaGrows([ann, bob], { video: false });
    assert.equal(await ann.evaluate(() => t.call.remote.getVideoTracks().length), 0);
    await hangUp(ann, bob);
  });

  test('a video call is seen and heard on both sides, and hanging up releases the devices', async () => {
    const { ann, bob } = await pair('video');
    await mediaGrows([ann, bob], { video: true });
    await ann.evaluate(() => (t.tracks = t.call.local.getTracks()));
    await bob.evaluate(() => (t.tracks = t.call.local.getTracks()));
    await ann.evaluate(() => t.call.hangUp());
    assert.equal((await ended(bob)).reason, 'hangup');
    for (const page of [ann, bob]) assert.deepEqual(await page.evaluate(() => t.tracks.map((track) => track.readyState)), ['ended', 'ended']);
    await close(ann, bob);
  });

  test('data goes both ways, as text and as bytes', async () => {
    const { ann, bob } = await pair('audio');
    for (const page of [ann, bob]) {
      await until('the channel is open', () => page.evaluate(() => t.sent ||= t.call.sendData('hello')));
      await page.evaluate(() => t.call.sendData(new Uint8Array(20_000).buffer));
    }
    for (const page of [ann, bob]) {
      await until('both arrive', () => page.evaluate(() => t.data.length === 2));
      assert.deepEqual(await page.evaluate(() => t.data), ['hello', '20000 bytes']);
    }
    await hangUp(ann, bob);
  });
});

describe('during a call', () => {
  test('muting and turning the camera off are met at the other side, and back', async () => {
    const { ann, bob } = await pair('video');
    await mediaGrows([ann, bob], { video: true });
    /** How much energy arrives in a second. */
    const loudness = async () => {
      const before = (await media(bob)).audio;
      await sleep(1500);
      return (await media(bob)).audio - before;
    };
    const brightness = () => bob.evaluate(() => t.brightness());
    await until('the picture is bright', async () => (await brightness()) > 40);
    await ann.evaluate(() => (t.call.setMuted(true), t.call.setCameraOff(true)));
    await until('the picture is black', async () => (await brightness()) < 10);
    await until('nothing is heard', async () => (await loudness()) < 1e-6);
    await ann.evaluate(() => (t.call.setMuted(false), t.call.setCameraOff(false)));
    await until('the picture is back', async () => (await brightness()) > 40);
    await until('the voice is back', async () => (await loudness()) > 1e-6);
    await hangUp(ann, bob);
  });

  test('a screen takes the place of the camera and gives it back', async () => {
    const { ann, bob } = await pair('video');
    await mediaGrows([ann, bob], { video: true });
    await ann.evaluate(() => t.call.shareScreen());
    const screen = await ann.evaluate(() => t.call.local.getVideoTracks()[0].label);
    await mediaGrows([ann, bob], { video: true });
    await ann.evaluate(() => t.call.stopShare());
    assert.notEqual(await ann.evaluate(() => t.call.local.getVideoTracks()[0].label), screen);
    await mediaGrows([ann, bob], { video: true });
    await hangUp(ann, bob);
  });

  test('a screen joins an audio call and leaves it, from either side', async () => {
    const { ann, bob } = await pair('audio');
    for (const [from, to] of [[ann, bob], [bob, ann], [ann, bob]]) {
      const before = (await media(to)).lastPicture;
      await from.evaluate(() => t.call.shareScreen());
      // A screen on which nothing moves sends few frames, and their count may begin anew with a new stream.
      await until('the screen is decoded', async () => {
        const { frames, lastPicture } = await media(to);
        return frames > 0 && lastPicture > before;
      });
      assert.equal(await to.evaluate(() => t.call.remote.getVideoTracks().length), 1);
      await from.evaluate(() => t.call.stopShare());
      await until('the screen is gone', () => to.evaluate(() => t.call.remote.getVideoTracks().length === 0));
    }
    await mediaGrows([ann, bob], { video: false });
    await hangUp(ann, bob);
  });

  test('the camera is switched, and one that was off stays off', async () => {
    const { ann, bob } = await pair('video');
    await mediaGrows([ann, bob], { video: true });
    const camera = () => ann.evaluate(() => t.call.local.getVideoTracks()[0].getSettings().deviceId);
    const first = await camera();
    await ann.evaluate(() => t.call.switchCamera());
    assert.notEqual(await camera(), first);
    await mediaGrows([ann, bob], { video: true });
    await ann.evaluate(() => t.call.setCameraOff(true));
    await until('the picture is black', async () => (await bob.evaluate(() => t.brightness())) < 10);
    await ann.evaluate(() => t.call.switchCamera());
    assert.equal(await camera(), first);
    await sleep(1500);
    assert.ok((await bob.evaluate(() => t.brightness())) < 10, 'the other camera is off as well');
    await hangUp(ann, bob);
  });

  test('ICE restarts under running media', async () => {
    const { ann, bob } = await pair('video');
    const ufrag = (page) => page.evaluate(() => /ice-ufrag:(\S+)/.exec(t.call.peerConnection.localDescription.sdp)[1]);
    for (const side of [ann, bob]) {
      const before = [await ufrag(ann), await ufrag(bob)];
      await side.evaluate(() => t.call.restartIce());
      await until('both have new credentials', async () => (await ufrag(ann)) !== before[0] && (await ufrag(bob)) !== before[1]);
      await mediaGrows([ann, bob], { video: true });
      await connected(ann, bob);
    }
    await hangUp(ann, bob);
  });
});

describe('answering', () => {
  test('the callee declines', async () => {
    const [ann, bob] = [await signedIn('ann-no'), await signedIn('bob-no')];
    await place(ann, 'bob-no', 'audio');
    await until('it rings', () => bob.evaluate(() => t.rings.length > 0));
    await bob.evaluate(() => t.rings[0].reject());
    await ended(ann);
    assert.equal(await state(ann), 'ended');
    await close(ann, bob);
  });

  test('one of two devices answers and the other stops ringing', async () => {
    const [ann, phone, desk] = [await signedIn('ann-two'), await signedIn('bob-two'), await signedIn('bob-two')];
    await place(ann, 'bob-two', 'audio');
    await until('the phone rings', () => phone.evaluate(() => t.rings.length > 0));
    await take(desk);
    assert.equal(await until('the phone is told', () => phone.evaluate(() => t.ringEnded)), 'answered-elsewhere');
    await connected(ann, desk);
    await mediaGrows([ann, desk], { video: false });
    await close(phone);
    await hangUp(ann, desk);
  });

  test('nobody gets in with a wrong token', async () => {
    const page = await openPage(chromium, bed.url);
    const [header, claims] = (await server.token('mallory')).split('.');
    for (const token of [`${header}.${claims}.c2lnbmF0dXJl`, 'nonsense', 'not even a token']) {
      const code = await page.evaluate(async (url, token) => {
        const signal = new Signal({ url, token: () => token });
        return signal.connect().then(() => 'connected', (error) => error.code);
      }, server.ws, token);
      assert.equal(code, 'closed');
    }
    await close(page);
  });
});

describe('what happens to calls', () => {
  test('a page that is closed has left the call after the grace', async () => {
    const short = await startServer({ 'signaling.resume_grace': '2s' });
    const { ann, bob } = await pair('audio', { ws: short.ws, from: short });
    await bob.browserContext().close();
    const { reason } = await ended(ann);
    assert.ok(['disconnected', 'hangup'].includes(reason), reason);
    await close(ann);
    await short.stop();
  });

  test('six seconds without signaling do not end a call', async () => {
    const proxy = await startProxy(server.ports.http);
    const { ann, bob } = await pair('audio', { ws: proxy.ws });
    proxy.cut();
    await until('both have noticed', async () => (await ann.evaluate(() => t.signal.state)) === 'reconnecting' && (await bob.evaluate(() => t.signal.state)) === 'reconnecting');
    await sleep(6000);
    assert.equal(await state(ann), 'connected');
    proxy.heal();
    await until('both are back', async () => (await ann.evaluate(() => t.signal.state)) === 'connected' && (await bob.evaluate(() => t.signal.state)) === 'connected');
    await mediaGrows([ann, bob], { video: false });
    // Signaling of the call still works.
    await ann.evaluate(() => t.call.shareScreen());
    await until('the screen arrives', async () => (await media(bob)).frames > 0);
    await hangUp(ann, bob);
    await proxy.stop();
  });

  /** Takes signaling and media from everybody for six seconds; `received` tells how much media a page has. */
  async function sixSecondsWithoutNetwork(pages, received, signaling, media) {
    signaling.cut();
    media.cut();
    await sleep(500);
    const before = await Promise.all(pages.map(received));
    await sleep(5500);
    assert.deepEqual(await Promise.all(pages.map(received)), before, 'no media passes while the network is away');
    signaling.heal();
    media.heal();
    for (const page of pages) await until('signaling is back', async () => (await page.evaluate(() => t.signal.state)) === 'connected');
  }

  test('six seconds without any network do not end a call', async () => {
    const [signaling, relay] = [await startProxy(server.ports.http), await startUdpProxy(server.ports.turn)];
    const { ann, bob } = await pair('video', { ws: signaling.ws, relay: relay.port });
    await mediaGrows([ann, bob], { video: true });
    await sixSecondsWithoutNetwork([ann, bob], async (page) => (await media(page)).packets, signaling, relay);
    await mediaGrows([ann, bob], { video: true });
    await connected(ann, bob);
    for (const page of [ann, bob]) assert.deepEqual(await page.evaluate(() => [t.ended, t.room]), [null, null]);
    await hangUp(ann, bob);
    relay.stop();
    await signaling.stop();
  });

  test('six seconds without any network do not end a stay in a room', async () => {
    const [signaling, relay] = [await startProxy(server.ports.http), await startUdpProxy(server.ports.turn)];
    const options = { ws: signaling.ws, relay: relay.port };
    const pages = [await signedIn('ann-room', options), await signedIn('bob-room', options)];
    for (const page of pages) {
      await page.evaluate(async () => {
        t.room = await Room.join(t.signal, 'outage');
        for (const event of ['peerLeft', 'removed', 'error']) t.room.on(event, (...what) => t.errors.push(`${event}: ${what}`));
        t.room.on('subscribed', ({ kind, track }) => {
          document.body.append(Object.assign(document.createElement(kind), { autoplay: true, srcObject: new MediaStream([track]) }));
        });
        const stream = await navigator.mediaDevices.getUserMedia({ audio: true, video: { width: 640, height: 360 } });
        for (const track of stream.getTracks()) await t.room.publish(track);
      });
    }
    const inbound = (page) =>
      page.evaluate(async () => {
        const sum = { packets: 0, frames: 0, audio: 0 };
        for (const stat of (await t.room.getStats()) ?? []) {
          if (stat.type !== 'inbound-rtp') continue;
          sum.packets += stat.packetsReceived;
          sum.frames += stat.framesDecoded ?? 0;
          sum.audio += stat.totalAudioEnergy ?? 0;
        }
        return sum;
      });
    const everybodyDecodes = async () => {
      for (const page of pages) {
        const first = await inbound(page);
        await until('audio and frames decode', async () => {
          const now = await inbound(page);
          return now.frames > first.frames + 10 && now.audio > first.audio;
        });
      }
    };
    await everybodyDecodes();
    await sixSecondsWithoutNetwork(pages, async (page) => (await inbound(page)).packets, signaling, relay);
    await everybodyDecodes();
    for (const page of pages) assert.deepEqual(await page.evaluate(() => [t.room.state, t.room.peers.length, t.errors]), ['joined', 1, []]);
    await close(...pages);
    relay.stop();
    await signaling.stop();
  });

  for (const who of ['caller', 'callee']) {
    test(`the ${who} reloads the page and the call goes on`, async () => {
      const { ann, bob, names } = await pair('video');
      const [page, other, user] = who === 'caller' ? [ann, bob, names[0]] : [bob, ann, names[1]];
      await page.evaluate(() => {
        sessionStorage.setItem('session', t.signal.sessionId);
        sessionStorage.setItem('ticket', JSON.stringify(t.call.ticket));
      });
      await page.reload();
      await page.evaluate(prepare);
      const { resumed } = await page.evaluate((ws, token) => t.connect(ws, token, sessionStorage.getItem('session')), server.ws, await server.token(user));
      assert.equal(resumed, true);
      await page.evaluate(async () => t.keep(await Call.rejoin(t.signal, JSON.parse(sessionStorage.getItem('ticket')))));
      await connected(page, other);
      await mediaGrows([page, other], { video: true });
      await hangUp(ann, bob);
    });
  }

  test('a third person joins, everybody moves to the room and decodes everybody', async () => {
    const { ann, bob, names } = await pair('video');
    const cem = await signedIn('cem');
    await ann.evaluate(() => t.call.invite(['cem']));
    await take(cem);
    const pages = [ann, bob, cem];
    const rooms = [];
    for (const page of pages) rooms.push(await until('the call moves to a room', () => page.evaluate(() => t.room)));
    assert.equal(new Set(rooms).size, 1);
    for (const page of pages) {
      await page.evaluate(async () => {
        const { microphone, camera } = t.call.detach();
        t.inRoom = await Room.join(t.signal, t.room);
        t.inRoom.on('subscribed', ({ kind, track }) => {
          const element = Object.assign(document.createElement(kind), { autoplay: true, srcObject: new MediaStream([track]) });
          document.body.append(element);
        });
        for (const track of [microphone, camera]) await t.inRoom.publish(track);
      });
    }
    const everybody = [...names, 'cem'];
    for (const [n, page] of pages.entries()) {
      await until(`${everybody[n]} decodes the others`, () =>
        page.evaluate(async () => {
          const inbound = ((await t.inRoom.getStats()) ?? []).filter((stat) => stat.type === 'inbound-rtp');
          return inbound.filter((s) => s.kind === 'video' && s.framesDecoded > 10).length === 2 && inbound.filter((s) => s.kind === 'audio' && s.totalAudioEnergy > 0).length === 2;
        }), 30_000);
    }
    await close(...pages);
  });
});

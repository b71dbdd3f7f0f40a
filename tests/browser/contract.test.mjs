// The checklist of the mediasoup-client contract (§10), one test per item and browser, with stock mediasoup-client: publishers are
// of its 3.24 line and subscribers of 3.18, unless an item says otherwise. Loss on the network (the rest of item 16) is not here.
//
// Two pages of each browser serve all tests; a test that fails shows what its peers saw and what the server logged, and the
// next one gets new pages.
import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import os from 'node:os';
import path from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { firefoxPath, openPage, setUp, sleep, startUdpProxy, until } from './harness.mjs';

const stock = path.join(path.dirname(fileURLToPath(import.meta.url)), 'stock.js');
const hasFirefox = existsSync(firefoxPath);
const LIMIT_MS = 30_000;
/** What AV1 is published with. */
const AV1_MODE = 'L3T3';

let all;
setUp((ready) => (all = ready), { firefox: hasFirefox, settings: { 'limits.joins_per_minute_per_user': 1000 } });

// ---- Pages and peers ----

const pages = { chromium: {}, firefox: {} };
const proxies = new Set();

// Firefox gathers no candidate on loopback, and would reach the server through the relay only. So its media goes to a proxy at
// an address of this machine that is not loopback.
const own = Object.values(os.networkInterfaces()).flat().find((it) => it.family === 'IPv4' && !it.internal)?.address;
const mediaAddress = { chromium: '127.0.0.1', firefox: own };

/** What the page can do beside stock.js. */
function tools() {
  const of = async (it, type) => [...(await it.getStats()).values()].filter((report) => report.type === type);
  Object.assign(window, {
    inbound: async (consumer) => (await of(consumer, 'inbound-rtp'))[0],
    outbound: (producer) => of(producer, 'outbound-rtp'),
    told: (type) => peer.notifications.filter((it) => it.type === type),
    /** The wall time of the first look, every 10 ms, at which `look` is true. */
    moment: async (look, limitMs = 10_000) => {
      for (const end = Date.now() + limitMs; Date.now() < end; await new Promise((done) => setTimeout(done, 10))) if (await look()) return Date.now();
      return Infinity;
    },
    closeProducer: async (id) => {
      peer.producers.get(id).close();
      peer.producers.delete(id);
      await peer.request('close-producer', { producerId: id });
    },
    closeConsumer: async (id) => {
      const { consumer, element } = peer.consumers.get(id);
      consumer.close();
      element.remove();
      peer.consumers.delete(id);
      await peer.request('close-consumer', { consumerId: id });
    },
    /** Sections of the local and of the remote description of a transport. */
    sections: (transport) => {
      const { _pc: pc } = transport._handler;
      return [pc.localDescription, pc.remoteDescription].map((it) => it.sdp.split(/\r\n(?=m=)/).slice(1));
    },
    evidence: async () => ({
      send: peer.send?.connectionState, recv: peer.recv?.connectionState, failures: peer.failures, decoded: await peer.decoded(),
      outbound: (await Promise.all([...peer.producers.values()].map((it) => (it.closed ? [] : outbound(it))))).flat().map(({ rid, ssrc, packetsSent, framesEncoded, frameWidth }) => ({ rid, ssrc, packetsSent, framesEncoded, frameWidth })),
      server: await peer.request('get-stats').catch(String), notifications: peer.notifications.slice(-15),
    }),
  });
}

/** A peer in one of the browser's two pages. `proxy` is in the way of its media; `mangled` are its DTLS parameters. */
async function join(browser, name, room, { device = name === 'ann' ? 'Device324' : 'Device318', proxy, mangled = false, ...options } = {}) {
  const page = (pages[browser][name] ??= await openPage(all[browser], all.bed.url));
  if (!page.ready) {
    await page.addScriptTag({ path: stock });
    await page.evaluate(tools);
    page.ready = true;
  }
  if (browser === 'firefox' && !options.iceTransportPolicy) proxy ??= await startMediaProxy(browser);
  page.errors.length = 0;
  page.joined = true;
  await page.evaluate(
    async (ws, token, device, room, at, mangled, options) => {
      window.peer = new StockPeer(window[device]);
      const ask = peer.request.bind(peer);
      peer.request = async (type, fields) => {
        if (mangled && type === 'connect-transport') {
          const { role, fingerprints } = fields.dtlsParameters;
          const other = fingerprints.map((it) => ({ ...it, value: it.value.replace(/.$/, (last) => (last === '0' ? '1' : '0')) }));
          return ask(type, { ...fields, dtlsParameters: { role, fingerprints: other } });
        }
        const reply = await ask(type, fields);
        if (at && type === 'create-transport') reply.iceCandidates = reply.iceCandidates.filter((it) => it.protocol === 'udp').map((it) => ({ ...it, ip: at.address, ...at }));
        return reply;
      };
      await peer.connect(ws, token);
      await peer.join(room, options);
    },
    all.server.ws, await all.server.token(name), device, room, proxy && { address: proxy.address, port: proxy.port }, mangled, options,
  );
  return page;
}

async function leave(page) {
  await page.evaluate(async () => {
    await peer.leave();
    peer.socket.close(1000);
  });
  page.joined = false;
}

/** A proxy on the way of a peer's media, where a test can watch and lose datagrams. */
async function startMediaProxy(browser, pass) {
  const proxy = await startUdpProxy(all.server.ports.media, { pass, address: mediaAddress[browser] });
  proxies.add(proxy);
  return proxy;
}

/** One item of the checklist in each browser that it applies to; `run` gets the browser's name and a room of its own. */
function item(title, run, browsers = ['chromium', 'firefox']) {
  for (const browser of browsers) {
    const lacks = !hasFirefox ? 'firefox-esr is not installed' : !own && 'Firefox needs an IPv4 address that is not loopback';
    const skip = browser === 'firefox' && lacks;
    test(`${title} (${browser})`, { skip }, async () => {
      const logged = all.server.log().length;
      const taken = () => Object.entries(pages[browser]).filter(([, page]) => page.joined);
      try {
        await run(browser, `contract-${title.split(' ')[0]}-${browser}`);
        for (const [name, page] of taken()) {
          assert.deepEqual([page.errors, await page.evaluate(() => peer.failures)], [[], []], `${name}'s page has nothing to complain about`);
          await leave(page);
        }
      } catch (error) {
        for (const [name, page] of taken()) {
          const seen = await Promise.race([page.evaluate(() => evidence()).catch(String), sleep(5000)]);
          console.error(`${name} saw ${JSON.stringify(seen, null, 1)}\nerrors of the page: ${page.errors}`);
          await page.browserContext().close();
          delete pages[browser][name];
        }
        console.error(`the server's log:\n${all.server.log().slice(logged)}`);
        throw error;
      } finally {
        for (const proxy of proxies) proxy.stop();
        proxies.clear();
      }
    });
  }
}

// ---- What peers do and see ----

const small = { constraints: { width: 640, height: 360 }, codec: 'video/VP8' };
const simulcast = {
  ...small, constraints: { width: 1280, height: 720 },
  encodings: [{ scaleResolutionDownBy: 4, maxBitrate: 100_000 }, { scaleResolutionDownBy: 2, maxBitrate: 250_000 }, { maxBitrate: 600_000 }],
};

const publish = (page, kind, options = {}) => page.evaluate((kind, options) => peer.publish(kind, options), kind, options);
const serverStats = (page, of) => page.evaluate((of) => peer.request('get-stats', of), of);

/** A consumer of `producer` with its parameters, when it is there. */
const consumerOf = (page, producer) =>
  until('the subscriber has a consumer', () => page.evaluate((producer) => {
    const found = [...peer.consumers.values()].find((it) => it.info.producerId === producer && !it.consumer.closed);
    return found && { id: found.info.id, type: found.info.type, ...found.consumer.rtpParameters };
  }, producer), LIMIT_MS);

const received = (page, consumer) => page.evaluate(async (id) => {
  const { consumer } = peer.consumers.get(id);
  const { packetsReceived, framesDecoded, frameWidth, packetsLost, keyFramesDecoded, totalAudioEnergy } = (await inbound(consumer)) ?? {};
  return { kind: consumer.kind, packetsReceived, framesDecoded, frameWidth, packetsLost, keyFramesDecoded, totalAudioEnergy };
}, consumer);

/** Media of a consumer arrives and is decoded from now on; `width` is that of the pictures. */
async function decodes(page, consumer, width) {
  let first;
  return until(`media is decoded${width ? `, ${width} wide` : ''}`, async () => {
    const now = await received(page, consumer);
    if (width && now.frameWidth !== width) throw new Error(JSON.stringify(now));
    const count = now.kind === 'video' ? now.framesDecoded : now.packetsReceived;
    if (count === undefined) return false;
    first ??= count;
    if (count >= first + 10) return now;
    throw new Error(`${JSON.stringify(now)}, at first ${first}`);
  }, LIMIT_MS);
}

/** Nothing arrives any more: between two looks that are several pictures apart. */
async function stands(page, consumer) {
  let before = NaN;
  await until('nothing arrives any more', async () => {
    const { packetsReceived } = await received(page, consumer);
    if (packetsReceived === before) return true;
    before = packetsReceived;
    await sleep(400);
  }, LIMIT_MS);
}

/**
 * A promise in time: the best of at most three attempts, because a machine that is busy with other things does not answer in
 * time once in a while, and a server that is too slow never does.
 */
async function within(limitMs, what, attempt) {
  const taken = [];
  while (taken.length < 3 && !(taken.at(-1) <= limitMs)) taken.push(await attempt());
  assert.ok(taken.at(-1) <= limitMs, `${what} within ${limitMs} ms; it took ${taken}`);
}

// ---- The checklist ----

item('10.1 a device loads and can produce', async (browser, room) => {
  for (const [device, version, name] of [['Device318', /^3\.18\./, 'ann'], ['Device324', /^3\.24\./, 'bob']]) {
    const page = await join(browser, name, room, { device });
    const seen = await page.evaluate((device) => ({
      version: window[device === 'Device318' ? 'version318' : 'version324'], handler: peer.device.handlerName, loaded: peer.device.loaded,
      can: ['audio', 'video'].map((kind) => peer.device.canProduce(kind)),
    }), device);
    assert.match(seen.version, version);
    assert.deepEqual([seen.handler, seen.loaded, seen.can], [browser === 'firefox' ? 'Firefox120' : 'Chrome111', true, [true, true]]);
  }
});

item('10.2 opus is produced, routed by its SSRC and by its MID', async (browser, room) => {
  const ann = await join(browser, 'ann', room);
  for (const named of [true, false]) {
    const id = await ann.evaluate(async (named) => {
      const ask = peer.request;
      // Without the SSRC there is only the MID that a packet's producer could be told by.
      peer.request = (type, fields) => ask(type, named || type !== 'produce' ? fields : { ...fields, rtpParameters: { ...fields.rtpParameters, encodings: [{}] } });
      const id = await peer.publish('audio');
      peer.request = ask;
      return id;
    }, named);
    const ssrc = await ann.evaluate((id) => peer.producers.get(id).rtpParameters.encodings[0].ssrc, id);
    await until("the server's count of packets rises", async () => {
      const stats = await serverStats(ann, { producerId: id });
      if (stats.length === 1 && stats[0].ssrc === ssrc && stats[0].packetsReceived > 25) return true;
      throw new Error(`${ssrc} is not in ${JSON.stringify(stats)}`);
    }, LIMIT_MS);
    await ann.evaluate((id) => closeProducer(id), id);
  }
});

item('10.3 VP8 is produced with one encoding', async (browser, room) => {
  const ann = await join(browser, 'ann', room);
  const id = await publish(ann, 'video', small);
  const { encodings, codecs } = await ann.evaluate((id) => peer.producers.get(id).rtpParameters, id);
  assert.deepEqual(codecs.map((it) => it.mimeType.toLowerCase()), ['video/vp8', 'video/rtx']);
  assert.equal(encodings.length, 1);
  await until("the server's count of packets rises", async () => {
    const stats = await serverStats(ann, { producerId: id });
    if (stats.length === 1 && stats[0].ssrc === encodings[0].ssrc && stats[0].packetsReceived > 25) return true;
    throw new Error(JSON.stringify(stats));
  }, LIMIT_MS);
});

item('10.4 VP8 simulcast: three SSRCs told by RID, their RTX by RRID', async (browser, room) => {
  // One packet of each encoding is lost on the way, and comes again as RTX.
  const wanted = new Set();
  const proxy = await startMediaProxy(browser, (data, outward) => outward || data.length < 200 || !isRtp(data) || !wanted.delete(data.readUInt32BE(8)));
  const ann = await join(browser, 'ann', room, { proxy });
  const id = await publish(ann, 'video', simulcast);
  const [rids, named] = await ann.evaluate((id) => {
    const { encodings } = peer.producers.get(id).rtpParameters;
    return [encodings.map((it) => it.rid), encodings.some((it) => it.ssrc ?? it.rtx)];
  }, id);
  assert.deepEqual([rids, named], [['r0', 'r1', 'r2'], false]);
  const flowing = await until('three encodings arrive', async () => {
    const stats = await serverStats(ann, { producerId: id });
    if (stats.every((it) => it.packetsReceived > 20)) return stats;
    throw new Error(JSON.stringify(stats));
  }, LIMIT_MS);
  assert.deepEqual(flowing.map((it) => it.rid), rids);
  assert.equal(new Set(flowing.map((it) => it.ssrc)).size, 3);
  const sent = await ann.evaluate(async (id) => (await outbound(peer.producers.get(id))).map(({ rid, ssrc }) => `${rid} ${ssrc}`).sort(), id);
  assert.deepEqual(flowing.map(({ rid, ssrc }) => `${rid} ${ssrc}`), sent, 'the server tells the encodings apart as the browser does');

  // What is lost may not be worth sending again to the browser (it keeps little of a small layer): then another one is lost.
  let rounds = 0;
  await until('of each encoding a lost packet was sent again', async () => {
    const again = await ann.evaluate(async (id) => (await outbound(peer.producers.get(id))).map(({ ssrc, retransmittedPacketsSent }) => [ssrc, retransmittedPacketsSent]), id);
    const never = again.filter(([, count]) => !(count > 0)).map(([ssrc]) => ssrc);
    if (never.length === 0) return true;
    rounds += 1;
    for (const ssrc of never) wanted.add(ssrc);
    await sleep(1000);
    throw new Error(`never of ${never} in ${rounds} rounds`);
  }, LIMIT_MS);
  await until('and arrived', async () => {
    const lost = (await serverStats(ann, { producerId: id })).map((it) => it.packetsLost);
    if (lost.every((it) => it < Math.max(1, rounds))) return true;
    throw new Error(`lost: ${lost} in ${rounds} rounds`);
  }, LIMIT_MS);
});

/** RTP, not RTCP, STUN or DTLS (RFC 7983, RFC 5761 §4). */
function isRtp(data) {
  const type = data[1] & 0x7f;
  return data.length >= 12 && data[0] >= 128 && data[0] < 192 && !(type >= 64 && type < 96);
}

/** Publishes video and has it decoded at the other page, at full width. */
async function publishedAndDecoded(ann, bob, options, type) {
  const id = await publish(ann, 'video', options);
  const consumer = await consumerOf(bob, id);
  assert.equal(consumer.type, type);
  await decodes(bob, consumer.id, options.constraints.width);
  return [id, consumer];
}

item('10.5 VP9 L3T3_KEY and AV1 are produced and decoded', async (browser, room) => {
  const [ann, bob] = [await join(browser, 'ann', room), await join(browser, 'bob', room)];
  for (const [codec, scalabilityMode] of [['video/VP9', 'L3T3_KEY'], ['video/AV1', AV1_MODE]]) {
    const [id, consumer] = await publishedAndDecoded(ann, bob, { ...small, codec, encodings: [{ scalabilityMode }] }, 'svc');
    assert.equal(consumer.codecs[0].mimeType, codec);
    assert.equal(consumer.encodings[0].scalabilityMode, scalabilityMode);
    await ann.evaluate((id) => closeProducer(id), id);
  }
}, ['chromium']);

item('10.5 VP9 and AV1 are produced and decoded', async (browser, room) => {
  const [ann, bob] = [await join(browser, 'ann', room), await join(browser, 'bob', room)];
  for (const codec of ['video/VP9', 'video/AV1']) {
    const id = await publish(ann, 'video', { codec });
    const consumer = await consumerOf(bob, id);
    assert.equal(consumer.codecs[0].mimeType, codec);
    await decodes(bob, consumer.id);
    await ann.evaluate((id) => closeProducer(id), id);
  }
}, ['firefox']);

// Firefox has H264 by a plugin only, which it would have to download.
item('10.6 H264 is produced and decoded, single and with two encodings', async (browser, room) => {
  const [ann, bob] = [await join(browser, 'ann', room), await join(browser, 'bob', room)];
  const single = { ...small, codec: 'video/H264' };
  const [id] = await publishedAndDecoded(ann, bob, single, 'simple');
  await ann.evaluate((id) => closeProducer(id), id);
  const two = { ...single, encodings: [{ scaleResolutionDownBy: 2, maxBitrate: 200_000 }, { maxBitrate: 600_000 }] };
  const [, { id: consumerId }] = await publishedAndDecoded(ann, bob, two, 'simulcast');
  await bob.evaluate((consumerId) => peer.request('set-preferred-layers', { consumerId, spatialLayer: 0 }), consumerId);
  await decodes(bob, consumerId, 320);
}, ['chromium']);

item('10.7 each is consumed in another page, with an SSRC and a CNAME in its description', async (browser, room) => {
  const [ann, bob] = [await join(browser, 'ann', room), await join(browser, 'bob', room)];
  const videos = [small, simulcast, { ...small, codec: 'video/VP9' }, { ...small, codec: 'video/AV1' }];
  if (browser === 'chromium') videos.push({ ...small, codec: 'video/H264' });
  for (const [kind, options] of [['audio', {}], ...videos.map((it) => ['video', it])]) {
    const id = await publish(ann, kind, options);
    const consumer = await consumerOf(bob, id);
    await decodes(bob, consumer.id);
    const [{ ssrc, rtx }] = consumer.encodings;
    const [, remote] = await bob.evaluate(() => sections(peer.recv));
    const section = remote.find((it) => it.includes(`a=mid:${consumer.mid}\r\n`)) ?? '';
    for (const name of [ssrc, ...(kind === 'video' ? [rtx.ssrc] : [])]) {
      assert.match(section, new RegExp(`a=ssrc:${name} cname:\\S`), `${kind} of ${consumer.codecs[0].mimeType}`);
    }
    await ann.evaluate((id) => closeProducer(id), id);
  }
});

item('10.8 an audio consumer has the extensions mid and abs-send-time', async (browser, room) => {
  const [ann, bob] = [await join(browser, 'ann', room), await join(browser, 'bob', room)];
  const consumer = await consumerOf(bob, await publish(ann, 'audio'));
  const ids = Object.fromEntries(consumer.headerExtensions.map(({ uri, id }) => [uri, id]));
  assert.equal(ids['urn:ietf:params:rtp-hdrext:sdes:mid'], 1);
  assert.equal(ids['http://www.webrtc.org/experiments/rtp-hdrext/abs-send-time'], 4);
  assert.ok(!consumer.codecs[0].rtcpFeedback.some((it) => it.type === 'nack'), 'audio is not sent again, and so not asked for');
  await decodes(bob, consumer.id);
});

item('10.9 pause and resume on both sides, a keyframe within 500 ms', async (browser, room) => {
  const [ann, bob] = [await join(browser, 'ann', room), await join(browser, 'bob', room)];
  const voice = await publish(ann, 'audio', { zeroRtpOnPause: true });
  const camera = await publish(ann, 'video', small);
  const [heard, seen] = [(await consumerOf(bob, voice)).id, (await consumerOf(bob, camera)).id];
  await Promise.all([decodes(bob, heard), decodes(bob, seen)]);

  const publisher = (page, verb, id) => page.evaluate(async (verb, id) => {
    peer.producers.get(id)[verb]();
    const asked = Date.now();
    await peer.request(`${verb}-producer`, { producerId: id });
    return asked;
  }, verb, id);
  const subscriber = (page, verb, id) => page.evaluate(async (verb, id) => {
    peer.consumers.get(id).consumer[verb]();
    const asked = Date.now();
    await peer.request(`${verb}-consumer`, { consumerId: id });
    return asked;
  }, verb, id);
  /** How long until a paused consumer shows a picture again, which nothing but a keyframe can begin with. */
  const picture = async (resume) => {
    await stands(bob, seen);
    // The source may be asked for one keyframe per second.
    await sleep(1100);
    await bob.evaluate(() => (window.looking = false));
    const shown = bob.evaluate(async (id) => {
      // Firefox has no report of a stream that it does not expect.
      const frames = async () => (await inbound(peer.consumers.get(id).consumer))?.framesDecoded;
      const before = await frames();
      window.looking = true;
      return moment(async () => (await frames()) > (before ?? 0));
    }, seen);
    await until('bob is looking', () => bob.evaluate(() => window.looking));
    const asked = await resume();
    return (await shown) - asked;
  };
  await within(500, 'a picture after the publisher has resumed', async () => {
    await publisher(ann, 'pause', camera);
    await until('bob is told', () => bob.evaluate((id) => told('producer-paused').at(-1)?.producerId === id, camera));
    return picture(() => publisher(ann, 'resume', camera));
  });
  // In Firefox mediasoup-client negotiates the direction of a section at the same time, and its decoder begins with that.
  await within(browser === 'firefox' ? 1500 : 500, 'a picture after the subscriber has resumed', async () => {
    await subscriber(bob, 'pause', seen);
    return picture(() => subscriber(bob, 'resume', seen));
  });
  await decodes(bob, seen);

  await publisher(ann, 'pause', voice);
  await stands(bob, heard);
  await publisher(ann, 'resume', voice);
  await decodes(bob, heard);
});

item('10.10 close a consumer and consume again: a recycled section, a new mid', async (browser, room) => {
  const [ann, bob] = [await join(browser, 'ann', room), await join(browser, 'bob', room)];
  // The first section of a transport is never used again: it is what the others are bundled with.
  await decodes(bob, (await consumerOf(bob, await publish(ann, 'audio'))).id);
  const id = await publish(ann, 'video', small);
  const mids = [];
  let sections;
  for (let round = 0; round < 3; round++) {
    const consumer = await consumerOf(bob, id);
    await decodes(bob, consumer.id);
    mids.push(consumer.mid);
    const count = await bob.evaluate(() => window.sections(peer.recv)[1].length);
    assert.equal(count, (sections ??= count), 'the section is used again');
    await bob.evaluate(async (consumer, producer, again) => {
      await closeConsumer(consumer);
      if (again) await peer.consume(producer);
    }, consumer.id, id, round < 2);
  }
  assert.equal(new Set(mids).size, 3, `no mid twice: ${mids}`);
});

item('10.11 close a producer and produce again', async (browser, room) => {
  const [ann, bob] = [await join(browser, 'ann', room), await join(browser, 'bob', room)];
  const mids = [];
  for (let round = 0; round < 2; round++) {
    for (const kind of ['video', 'audio']) {
      const id = await publish(ann, kind, kind === 'video' ? small : {});
      mids.push(await ann.evaluate((id) => peer.producers.get(id).rtpParameters.mid, id));
      const consumer = await consumerOf(bob, id);
      await decodes(bob, consumer.id);
      await ann.evaluate((id) => closeProducer(id), id);
      await until('bob is told', () => bob.evaluate((id) => told('consumer-closed').some((it) => it.consumerId === id), consumer.id), LIMIT_MS);
    }
  }
  assert.equal(new Set(mids).size, mids.length, `no mid twice: ${mids}`);
});

item('10.12 setMaxSpatialLayer(0): consumers fall to layer 0 within 2 s', async (browser, room) => {
  const [ann, bob] = [await join(browser, 'ann', room), await join(browser, 'bob', room)];
  const id = await publish(ann, 'video', simulcast);
  const consumer = (await consumerOf(bob, id)).id;
  await until('something is decoded', async () => (await received(bob, consumer)).framesDecoded > 0, LIMIT_MS);
  const layer = () => bob.evaluate(() => told('consumer-layers').at(-1)?.spatialLayer);
  const chooses = (top) => ann.evaluate(async (id, top) => {
    const asked = Date.now();
    await peer.producers.get(id).setMaxSpatialLayer(top);
    return asked;
  }, id, top);
  await within(2000, 'a picture of the lowest layer', async () => {
    await chooses(2);
    await until('the top layer is forwarded', async () => (await layer()) === 2, LIMIT_MS);
    await decodes(bob, consumer);
    const top = (await received(bob, consumer)).frameWidth;
    await bob.evaluate(() => (window.looking = false));
    const fallen = bob.evaluate(async (id, top) => {
      const width = async () => (await inbound(peer.consumers.get(id).consumer)).frameWidth;
      window.looking = true;
      return moment(async () => (await width()) === top / 4, 20_000);
    }, consumer, top);
    await until('bob is looking', () => bob.evaluate(() => window.looking));
    const asked = await chooses(0);
    return (await fallen) - asked;
  });
  await until('bob is told', async () => (await layer()) === 0, LIMIT_MS);
  await decodes(bob, consumer);
});

item('10.13 ICE restart on both transports under media: no handshake, a gap below 1 s', async (browser, room) => {
  // What passes on the way to and from each of the two.
  const seen = { dtls: 0, stun: '', last: new Map(), gap: 0 };
  const watch = (data, outward) => {
    if (data[0] >= 20 && data[0] < 64) seen.dtls++;
    if (data[0] < 4 && !outward) seen.stun += data.toString('latin1');
    if (isRtp(data) && outward) {
      const ssrc = data.readUInt32BE(8);
      const now = performance.now();
      seen.gap = Math.max(seen.gap, now - (seen.last.get(ssrc) ?? now));
      seen.last.set(ssrc, now);
    }
    return true;
  };
  const peers = {};
  for (const name of ['ann', 'bob']) peers[name] = await join(browser, name, room, { proxy: await startMediaProxy(browser, watch) });
  for (const page of Object.values(peers)) for (const kind of ['audio', 'video']) await publish(page, kind, kind === 'video' ? small : {});
  const everybodyDecodes = () => Promise.all(Object.values(peers).map(async (page) => {
    await until('two consumers', () => page.evaluate(() => peer.consumers.size === 2), LIMIT_MS);
    for (const id of await page.evaluate(() => [...peer.consumers.keys()])) await decodes(page, id);
  }));
  await everybodyDecodes();
  await within(1000, 'the next packet of every stream', async () => {
    Object.assign(seen, { dtls: 0, stun: '', gap: 0 });
    const names = await Promise.all(Object.values(peers).map((page) => page.evaluate(() => Promise.all([peer.send, peer.recv].map(async (transport) => {
      const { iceParameters } = await peer.request('restart-ice', { transportId: transport.id });
      await transport.restartIce({ iceParameters });
      return iceParameters.usernameFragment;
    })))));
    await until('the new names are used', () => names.flat().every((name) => seen.stun.includes(`${name}:`)), LIMIT_MS);
    await everybodyDecodes();
    assert.equal(seen.dtls, 0, 'nothing of DTLS was sent');
    const now = performance.now();
    return Math.max(seen.gap, ...[...seen.last.values()].map((last) => now - last));
  });
  for (const page of Object.values(peers)) {
    assert.deepEqual(await page.evaluate(() => [peer.send.connectionState, peer.recv.connectionState]), ['connected', 'connected']);
  }
});

item('10.14 twenty consumers in one tick', async (browser, room) => {
  const [ann, bob] = [await join(browser, 'ann', room), await join(browser, 'bob', room, { autoConsume: false })];
  const producers = [await publish(ann, 'audio'), await publish(ann, 'video', { ...small, constraints: { width: 320, height: 180 } })];
  await bob.evaluate((producers) => Promise.all(Array(10).fill(producers).flat().map((id) => peer.consume(id))), producers);
  const mids = await bob.evaluate(() => [...peer.consumers.values()].map(({ consumer }) => consumer.rtpParameters.mid));
  assert.equal(new Set(mids).size, 20, `a section each: ${mids}`);
  await until('all are decoded', () => bob.evaluate(async () => {
    const reports = await Promise.all([...peer.consumers.values()].map(({ consumer }) => inbound(consumer)));
    const counts = reports.map((it) => (it?.kind === 'video' ? it.framesDecoded : it?.packetsReceived));
    if (counts.every((it) => it > 5)) return true;
    throw new Error(JSON.stringify(counts));
  }), LIMIT_MS);
});

// Empty messages are not passed on: the server's SCTP cannot send one (media/src/connection.rs). What comes after one arrives.
item('10.15 data: ordered, unordered without retransmissions, 256 KiB, text and binary', async (browser, room) => {
  const [ann, bob] = [await join(browser, 'ann', room), await join(browser, 'bob', room)];
  await ann.evaluate(async () => {
    for (const [label, options] of [['ordered', { ordered: true }], ['loose', { ordered: false, maxRetransmits: 0 }]]) {
      const producer = await peer.send.produceData({ label, protocol: `of ${label}`, ...options });
      if (producer.readyState !== 'open') await new Promise((done) => producer.on('open', done));
      peer[label] = producer;
    }
  });
  const channels = await until('bob consumes both channels', () => bob.evaluate(() => {
    const all = [...peer.dataConsumers.values()];
    return all.length === 2 && all.map((it) => ({ label: it.label, protocol: it.protocol, state: it.readyState, ...it.sctpStreamParameters }));
  }), LIMIT_MS);
  const byLabel = Object.fromEntries(channels.map((it) => [it.label, it]));
  assert.deepEqual([byLabel.ordered.ordered, byLabel.ordered.protocol, byLabel.ordered.state], [true, 'of ordered', 'open']);
  assert.deepEqual([byLabel.loose.ordered, byLabel.loose.maxRetransmits, byLabel.loose.state], [false, 0, 'open']);
  assert.notEqual(byLabel.ordered.streamId, byLabel.loose.streamId);

  // Each message's text, or length and sum of its bytes: what it was and not only how long.
  await bob.evaluate(() => {
    window.arrived = [];
    for (const consumer of peer.dataConsumers.values()) {
      consumer.on('message', async (data) => {
        if (consumer.label !== 'ordered') return;
        const at = arrived.push(null) - 1;
        arrived[at] = typeof data === 'string' ? data : await new Response(data).arrayBuffer().then((it) => [it.byteLength, new Uint8Array(it).reduce((sum, byte) => sum + byte, 0)]);
      });
    }
  });
  const big = await ann.evaluate(async () => {
    const big = Uint8Array.from({ length: 262_144 }, (_, at) => (at * 31) % 251);
    for (const message of ['hello', new Uint8Array([1, 2, 3]), '', new Uint8Array(0), big, 'grüße, 世界', new Uint8Array([255])]) peer.ordered.send(message);
    return [big.length, big.reduce((sum, byte) => sum + byte, 0)];
  });
  const expected = ['hello', [3, 6], big, 'grüße, 世界', [1, 255]];
  await until('all arrive, in order and whole', async () => {
    const now = await bob.evaluate(() => arrived);
    if (now.length === expected.length && now.every(Boolean)) return assert.deepEqual(now, expected) ?? true;
    throw new Error(JSON.stringify(now));
  }, LIMIT_MS);
  // One that may be lost is tried more than once.
  await until('one of the unordered arrives', async () => {
    await ann.evaluate(() => peer.loose.send('unordered'));
    return bob.evaluate(() => peer.dataLog.some((it) => it.label === 'loose' && it.text === 'unordered'));
  }, LIMIT_MS);
});

item('10.16 a publisher is sent at most one PLI per second and SSRC', async (browser, room) => {
  const [ann, bob] = [await join(browser, 'ann', room), await join(browser, 'bob', room)];
  const id = await publish(ann, 'video', small);
  const consumer = (await consumerOf(bob, id)).id;
  await decodes(bob, consumer);
  const asked = () => ann.evaluate(async (id) => {
    const reports = await outbound(peer.producers.get(id));
    return [reports.length, reports.reduce((sum, it) => sum + it.pliCount + (it.firCount ?? 0), 0), performance.now()];
  }, id);
  const [encodings, before, begun] = await asked();
  assert.equal(encodings, 1);
  for (let count = 0; count < 22; count++) {
    await bob.evaluate((consumerId) => peer.request('request-key-frame', { consumerId }), consumer);
    await sleep(100);
  }
  // The request that was held back comes when its second is over.
  const [, after, ended] = await until('the publisher was asked more than once', async () => {
    const now = await asked();
    return now[1] >= before + 2 && now;
  }, LIMIT_MS);
  const bound = Math.floor((ended - begun) / 1000) + 1;
  assert.ok(after - before <= bound, `${after - before} requests in ${ended - begun} ms`);
});

item('10.17 a second connect, a duplicate mid or SSRC and a wrong fingerprint are refused', async (browser, room) => {
  const media = { ann: 0, eve: 0 };
  const counting = (name) => (data, outward) => (media[name] += outward && isRtp(data), true);
  const ann = await join(browser, 'ann', room, { proxy: await startMediaProxy(browser, counting('ann')) });
  const bob = await join(browser, 'bob', room);
  const id = await publish(ann, 'video', small);
  await decodes(bob, (await consumerOf(bob, id)).id);
  const refusals = await ann.evaluate(async (id) => {
    const { kind, rtpParameters } = peer.producers.get(id);
    const dtlsParameters = { role: 'client', fingerprints: [{ algorithm: 'sha-256', value: Array(32).fill('AB').join(':') }] };
    const [{ ssrc, rtx }] = rtpParameters.encodings;
    const produce = (fields) => peer.refusal('produce', { transportId: peer.send.id, kind, source: 'again', rtpParameters: { ...rtpParameters, ...fields } });
    return {
      connect: await peer.refusal('connect-transport', { transportId: peer.send.id, dtlsParameters }),
      mid: await produce({ encodings: [{ ssrc: 12345, rtx: { ssrc: 12346 } }] }),
      ssrc: await produce({ mid: 'other', encodings: [{ ssrc, rtx: { ssrc: 12346 } }] }),
      rtx: await produce({ mid: 'other', encodings: [{ ssrc: 12345, rtx }] }),
    };
  }, id);
  assert.deepEqual(refusals, { connect: 'already-connected', mid: 'invalid-parameters', ssrc: 'invalid-parameters', rtx: 'invalid-parameters' });
  await decodes(bob, (await consumerOf(bob, id)).id);
  await leave(bob);

  // Whose certificate is not the announced one receives nothing and is not heard.
  const eve = await join(browser, 'bob', room, { mangled: true, proxy: await startMediaProxy(browser, counting('eve')) });
  await eve.evaluate(() => peer.publish('audio'));
  await until('both transports have failed', () => eve.evaluate(() => {
    const reasons = told('transport-closed').map((it) => it.reason);
    if (reasons.filter((it) => it === 'dtls-failed').length === 2) return true;
    throw new Error(JSON.stringify(reasons));
  }), LIMIT_MS);
  assert.equal(await eve.evaluate(() => told('consumer-closed').length), 1, 'she had a consumer');
  await until('her producer has come and gone', () => ann.evaluate(() => told('new-producer').length === 1 && told('producer-closed').length === 1), LIMIT_MS);
  assert.deepEqual(media, { ann: 0, eve: 0 }, 'no media was sent to her, nor hers to others');
  // What is gone so soon may be asked for too late.
  for (const page of [ann, eve]) await page.evaluate(() => (peer.failures = peer.failures.filter((it) => !/ not found$/.test(it))));
});

for (const [device, version] of [['Device318', '3.18'], ['Device324', '3.24']]) {
  item(`10.18 mediasoup-client ${version}, unchanged`, async (browser, room) => {
    const names = ['ann', 'bob'];
    const peers = [];
    for (const name of names) peers.push(await join(browser, name, `${room}-${version}`, { device }));
    for (const page of peers) {
      await publish(page, 'audio');
      await publish(page, 'video', simulcast);
      await page.evaluate(async () => (peer.chat = await peer.send.produceData({ label: 'chat' })));
    }
    await Promise.all(peers.map(async (page, at) => {
      await until('three consumers', () => page.evaluate(() => peer.consumers.size === 2 && peer.dataConsumers.size === 1), LIMIT_MS);
      for (const id of await page.evaluate(() => [...peer.consumers.keys()])) await decodes(page, id);
      await page.evaluate((name) => peer.chat.send(`from ${name}`), names[at]);
    }));
    for (const [at, page] of peers.entries()) {
      await until('the other is read', () => page.evaluate((other) => peer.dataLog.some((it) => it.text === `from ${other}`), names[1 - at]), LIMIT_MS);
    }
  });
}

item("10.19 iceTransportPolicy 'relay' through the server's TURN", async (browser, room) => {
  const peers = [];
  for (const name of ['ann', 'bob']) peers.push(await join(browser, name, room, { iceTransportPolicy: 'relay', onlyTransport: 'udp' }));
  for (const page of peers) {
    await publish(page, 'audio');
    await publish(page, 'video', small);
  }
  await Promise.all(peers.map(async (page) => {
    await until('two consumers', () => page.evaluate(() => peer.consumers.size === 2), LIMIT_MS);
    for (const id of await page.evaluate(() => [...peer.consumers.keys()])) await decodes(page, id);
    const types = await until('a path for both transports', async () => {
      const types = await page.evaluate(() => peer.candidateTypes());
      return types.length >= 2 && types;
    }, LIMIT_MS);
    assert.deepEqual([...new Set(types)], ['relay/udp']);
  }));
});

item('10.20 a transport survives ten producers, one after the other', async (browser, room) => {
  const [ann, bob] = [await join(browser, 'ann', room), await join(browser, 'bob', room)];
  for (let round = 0; round < 10; round++) {
    const id = await publish(ann, round % 2 ? 'audio' : 'video', round % 2 ? {} : small);
    await decodes(bob, (await consumerOf(bob, id)).id);
    await ann.evaluate((id) => closeProducer(id), id);
  }
  assert.equal(await ann.evaluate(() => peer.send.connectionState), 'connected');
}, ['firefox']);

// Rooms through the SFU with stock mediasoup-client, both supported lines of it: no SDK of ours in these pages.
import assert from 'node:assert/strict';
import { afterEach, describe, test } from 'node:test';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { openPage, setUp, sleep, until } from './harness.mjs';

const stock = path.join(path.dirname(fileURLToPath(import.meta.url)), 'stock.js');
let server, bed, chromium;
const open = new Set();
setUp((ready) => ({ server, bed, chromium } = ready));

// Also after a failure: a page left open would take the processor from the tests that follow.
afterEach(() => close(...open));

/** One page that holds a stock peer of the given user, connected and joined. */
async function joined(user, room, { device = 'Device318', publish = [], ...options } = {}) {
  const page = await openPage(chromium, bed.url);
  open.add(page);
  await page.addScriptTag({ path: stock });
  await page.evaluate(
    async (ws, token, device, room, options) => {
      window.peer = new StockPeer(window[device]);
      await peer.connect(ws, token);
      await peer.join(room, options);
    },
    server.ws, await server.token(user), device, room, options,
  );
  for (const [kind, produce] of publish) await page.evaluate((kind, produce) => peer.publish(kind, produce), kind, produce ?? {});
  return page;
}

const decoded = (page) => page.evaluate(() => peer.decoded());
const close = (...pages) => Promise.all(pages.map((page) => open.delete(page) && page.browserContext().close()));
const both = [['audio'], ['video', { constraints: { width: 640, height: 360 } }]];
const simulcast = ['video', {
  constraints: { width: 1280, height: 720 }, codec: 'video/VP8',
  encodings: [{ scaleResolutionDownBy: 4, maxBitrate: 150_000 }, { scaleResolutionDownBy: 2, maxBitrate: 500_000 }, { maxBitrate: 1_500_000 }],
}];

/** Everybody in `pages` decodes growing audio and video of each of `names` but themselves. */
async function everybodyDecodes(pages, names) {
  for (const [index, page] of pages.entries()) {
    const others = names.filter((_, other) => other !== index);
    let first;
    await until(`${names[index]} decodes ${others}`, async () => {
      const now = await decoded(page);
      const present = others.every((o) => now[`${o}/microphone`]?.energy > 0 && now[`${o}/camera`]?.frames > 0);
      if (!present) return false;
      first ??= now;
      return others.every(
        (o) => now[`${o}/camera`].frames >= first[`${o}/camera`].frames + 10 && now[`${o}/microphone`].energy > first[`${o}/microphone`].energy,
      );
    });
  }
}

for (const device of ['Device318', 'Device324']) {
  describe(`a room of ${device === 'Device318' ? 'mediasoup-client 3.18' : 'mediasoup-client 3.24'}`, () => {
    test('three peers decode each other, one of them late; one leaves and rejoins', async () => {
      const room = `three-${device}`;
      const names = ['ann', 'bob', 'cem'];
      const ann = await joined('ann', room, { device, publish: both });
      const bob = await joined('bob', room, { device, publish: both });
      await everybodyDecodes([ann, bob], names.slice(0, 2));
      const cem = await joined('cem', room, { device, publish: both });
      await everybodyDecodes([ann, bob, cem], names);

      await bob.evaluate(() => peer.leave());
      await until('ann is told that bob left', () => ann.evaluate(() => peer.notifications.some((n) => n.type === 'peer-left' && n.peerId === 'bob')));
      await until("bob's consumers are gone", async () => !Object.keys(await decoded(ann)).some((k) => k.startsWith('bob/')));
      await bob.evaluate(async (room) => {
        await peer.join(room);
        await peer.publish('audio');
        await peer.publish('video', { constraints: { width: 640, height: 360 } });
      }, room);
      await everybodyDecodes([ann, bob, cem], names);
      for (const page of [ann, bob, cem]) assert.deepEqual(await page.evaluate(() => peer.failures), []);
      await close(ann, bob, cem);
    });

    test('simulcast: the subscriber chooses the layer and the picture goes on', async () => {
      const ann = await joined('ann', `simulcast-${device}`, { device, publish: [simulcast] });
      const bob = await joined('bob', `simulcast-${device}`, { device });
      const width = async () => (await decoded(bob))['ann/camera']?.width;
      const prefer = (spatialLayer) =>
        bob.evaluate((spatialLayer) => peer.request('set-preferred-layers', { consumerId: peer.consumerOf('ann', 'camera').id, spatialLayer, temporalLayer: 2 }), spatialLayer);
      await until('the top layer arrives', async () => (await width()) === 1280, 30_000);
      await prefer(0);
      await until('the lowest layer arrives', async () => (await width()) === 320);
      const before = (await decoded(bob))['ann/camera'].frames;
      await until('the lowest layer keeps decoding', async () => (await decoded(bob))['ann/camera'].frames > before + 15);
      await prefer(2);
      await until('the top layer is back', async () => (await width()) === 1280);
      await close(ann, bob);
    });
  });
}

test('the publisher turns the upper layers off and its subscribers fall to the lowest', async () => {
  const ann = await joined('ann', 'fall', { publish: [simulcast] });
  const bob = await joined('bob', 'fall');
  await until('the top layer arrives', async () => (await decoded(bob))['ann/camera']?.width === 1280, 30_000);
  await ann.evaluate(() => [...peer.producers.values()][0].setMaxSpatialLayer(0));
  await until('the lowest layer arrives', async () => (await decoded(bob))['ann/camera'].width === 320);
  const before = (await decoded(bob))['ann/camera'].frames;
  await until('it keeps decoding', async () => (await decoded(bob))['ann/camera'].frames > before + 15);
  await close(ann, bob);
});

test('pause and resume, by the publisher and by the subscriber', async () => {
  const ann = await joined('ann', 'pause', { publish: both });
  const bob = await joined('bob', 'pause');
  await everybodyDecodesOne(bob, 'ann');
  const stands = async () => {
    await sleep(500);
    const first = (await decoded(bob))['ann/camera'].packets;
    await sleep(700);
    return (await decoded(bob))['ann/camera'].packets === first;
  };
  const moves = async () => {
    const first = (await decoded(bob))['ann/camera'].frames;
    await until('frames decode again', async () => (await decoded(bob))['ann/camera'].frames > first + 10);
  };
  const camera = await ann.evaluate(() => [...peer.producers.values()].find((p) => p.kind === 'video').id);
  await ann.evaluate((producerId) => peer.request('pause-producer', { producerId }), camera);
  await until('bob is told', () => bob.evaluate(() => peer.notifications.some((n) => n.type === 'producer-paused')));
  assert.ok(await stands(), 'nothing is forwarded while the producer is paused');
  await ann.evaluate((producerId) => peer.request('resume-producer', { producerId }), camera);
  await moves();

  const consumer = await bob.evaluate(() => peer.consumerOf('ann', 'camera').id);
  await bob.evaluate((consumerId) => peer.request('pause-consumer', { consumerId }), consumer);
  assert.ok(await stands(), 'nothing is forwarded while the consumer is paused');
  await bob.evaluate((consumerId) => peer.request('resume-consumer', { consumerId }), consumer);
  await moves();
  await close(ann, bob);
});

async function everybodyDecodesOne(page, name) {
  await until(`${name} is decoded`, async () => {
    const now = await decoded(page);
    return now[`${name}/microphone`]?.energy > 0 && now[`${name}/camera`]?.frames > 10;
  });
}

test('a screen is a second producer, and closing it leaves the camera alone', async () => {
  const ann = await joined('ann', 'screen', { publish: both });
  const bob = await joined('bob', 'screen');
  await everybodyDecodesOne(bob, 'ann');
  const screen = await ann.evaluate(() => peer.publish('video', { display: true, appData: { source: 'screen' } }));
  await until('the screen decodes', async () => (await decoded(bob))['ann/screen']?.frames > 3);
  await ann.evaluate(async (id) => {
    peer.producers.get(id).close();
    await peer.request('close-producer', { producerId: id });
  }, screen);
  await until('the screen has gone', async () => !(await decoded(bob))['ann/screen']);
  const before = (await decoded(bob))['ann/camera'].frames;
  await until('the camera goes on', async () => (await decoded(bob))['ann/camera'].frames > before + 10);
  await ann.evaluate(() => peer.publish('video', { display: true, appData: { source: 'screen' } }));
  await until('the screen decodes again', async () => (await decoded(bob))['ann/screen']?.frames > 3);
  await close(ann, bob);
});

for (const codec of ['video/VP8', 'video/VP9', 'video/H264', 'video/AV1']) {
  test(`${codec} is published and decoded`, async () => {
    const room = `codec-${codec.split('/')[1]}`;
    const scalabilityMode = { 'video/VP9': 'L3T3_KEY', 'video/AV1': 'L3T3' }[codec];
    const svc = scalabilityMode ? { encodings: [{ scalabilityMode }] } : {};
    const ann = await joined('ann', room, { publish: [['video', { codec, constraints: { width: 640, height: 360 }, ...svc }]] });
    const bob = await joined('bob', room, { device: 'Device324' });
    await until(`${codec} decodes, all of its layers`, async () => {
      const now = (await decoded(bob))['ann/camera'];
      if (now?.codec === codec && now.frames > 15 && now.width === 640) return true;
      throw new Error(JSON.stringify(now));
    });
    await close(ann, bob);
  });
}

test('data through the room: text, binary and 256 KiB, ordered and not', async () => {
  const ann = await joined('ann', 'data');
  const bob = await joined('bob', 'data');
  const big = 262_144;
  await ann.evaluate(async (big) => {
    for (const [label, options] of [['ordered', { ordered: true }], ['loose', { ordered: false, maxRetransmits: 0 }]]) {
      const producer = await peer.send.produceData({ label, protocol: 'test', ...options });
      if (producer.readyState !== 'open') await new Promise((done) => producer.on('open', done));
      peer[label] = producer;
    }
    peer.big = new Uint8Array(big);
  }, big);
  // What is sent to a channel that is not open yet reaches nobody, and the loose one is not told twice.
  await until('bob consumes both channels', () =>
    bob.evaluate(() => peer.dataConsumers.size === 2 && [...peer.dataConsumers.values()].every((consumer) => consumer.readyState === 'open')));
  await ann.evaluate(() => {
    peer.ordered.send('hello');
    peer.ordered.send(new Uint8Array([1, 2, 3]));
    peer.ordered.send(peer.big);
  });
  await until('what is reliable arrives', () => bob.evaluate(() => peer.dataLog.length >= 3));
  await until('of what may be lost one arrives', async () => {
    await ann.evaluate(() => peer.loose.send('unordered'));
    return bob.evaluate(() => peer.dataLog.some((m) => m.label === 'loose'));
  });
  const log = await bob.evaluate(() => peer.dataLog);
  assert.deepEqual(
    log.filter((m) => m.label === 'ordered').map((m) => [m.binary, m.size]),
    [[false, 5], [true, 3], [true, big]],
  );
  assert.equal(log.find((m) => m.label === 'loose').text, 'unordered');
  await close(ann, bob);
});

test('ICE restart under media on both transports: no new handshake, a gap under 2 s', async () => {
  const ann = await joined('ann', 'restart', { publish: both });
  const bob = await joined('bob', 'restart', { publish: both });
  await everybodyDecodes([ann, bob], ['ann', 'bob']);
  for (let round = 0; round < 2; round++) {
    await ann.evaluate(() => peer.restartIce());
    const [before, there] = [await decoded(ann), await decoded(bob)];
    await until('both directions go on', async () =>
      (await decoded(ann))['bob/camera'].frames > before['bob/camera'].frames + 20 &&
      (await decoded(bob))['ann/camera'].frames > there['ann/camera'].frames + 20);
  }
  assert.deepEqual(await ann.evaluate(() => [peer.send.connectionState, peer.recv.connectionState]), ['connected', 'connected']);
  await close(ann, bob);
});

test('one peer cannot name what belongs to another', async () => {
  const ann = await joined('ann', 'own', { publish: both });
  const bob = await joined('bob', 'own');
  const eve = await joined('eve', 'elsewhere');
  await everybodyDecodesOne(bob, 'ann');
  const foreign = await ann.evaluate(() => ({
    send: peer.send.id, recv: peer.recv.id, camera: [...peer.producers.values()].find((p) => p.kind === 'video').id,
  }));
  const consumer = await bob.evaluate(() => peer.consumerOf('ann', 'camera').id);
  const refusals = [
    [bob, 'restart-ice', { transportId: foreign.send }, 'transport-not-found'],
    [bob, 'close-transport', { transportId: foreign.recv }, 'transport-not-found'],
    [bob, 'close-producer', { producerId: foreign.camera }, 'producer-not-found'],
    [bob, 'pause-producer', { producerId: foreign.camera }, 'producer-not-found'],
    [ann, 'close-consumer', { consumerId: consumer }, 'consumer-not-found'],
    [ann, 'set-preferred-layers', { consumerId: consumer, spatialLayer: 0 }, 'consumer-not-found'],
    [bob, 'get-stats', { transportId: foreign.send }, 'transport-not-found'],
  ];
  for (const [page, type, fields, code] of refusals) {
    assert.equal(await page.evaluate((type, fields) => peer.refusal(type, fields), type, fields), code, type);
  }
  const stolen = await eve.evaluate(
    (producerId) => peer.refusal('consume', { transportId: peer.recv.id, producerId, rtpCapabilities: peer.device.rtpCapabilities }),
    foreign.camera,
  );
  assert.equal(stolen, 'producer-not-found', 'a producer of another room does not exist here');
  const before = (await decoded(bob))['ann/camera'].frames;
  await until('nothing was disturbed', async () => (await decoded(bob))['ann/camera'].frames > before + 10);
  await close(ann, bob, eve);
});

test('twenty consumers in one tick, then close and consume again', async () => {
  const ann = await joined('ann', 'many', { publish: Array(10).fill(['audio']) });
  await ann.evaluate(async () => {
    for (let n = 0; n < 10; n++) await peer.publish('video', { constraints: { width: 320, height: 180 }, codec: 'video/VP8' });
  });
  const bob = await joined('bob', 'many');
  await until('twenty consumers', () => bob.evaluate(() => peer.consumers.size === 20));
  await until('each receives packets', () => bob.evaluate(async () => {
    const moving = await Promise.all([...peer.consumers.values()].map(async ({ consumer }) =>
      [...(await consumer.getStats()).values()].some((r) => r.type === 'inbound-rtp' && r.packetsReceived > 5)));
    return moving.every(Boolean);
  }), 30_000);
  await bob.evaluate(async () => {
    const [id, { consumer, info, element }] = [...peer.consumers].find(([, c]) => c.info.kind === 'video');
    consumer.close();
    element.remove();
    peer.consumers.delete(id);
    await peer.request('close-consumer', { consumerId: id });
    window.again = await peer.consume(info.producerId);
  });
  await until('the recycled consumer decodes', () => bob.evaluate(async () =>
    [...(await peer.consumers.get(again).consumer.getStats()).values()].some((r) => r.framesDecoded > 5)));
  await close(ann, bob);
});

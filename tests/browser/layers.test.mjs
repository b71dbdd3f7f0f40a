// Layers that nobody watches: the SDK turns its encodings off, and they are back with the next picture when somebody does.
import assert from 'node:assert/strict';
import { test } from 'node:test';
import { openPage, setUp, until } from './harness.mjs';

let server, bed, chromium;
setUp((ready) => ({ server, bed, chromium } = ready));

async function joined(user, room) {
  const page = await openPage(chromium, bed.url);
  await page.evaluate(async (url, token, room) => {
    const signal = new Signal({ url, token: () => token });
    await signal.connect();
    window.errors = [];
    window.told = [];
    window.streams = {};
    window.room = await Room.join(signal, room);
    window.room.on('error', (error) => errors.push(String(error)));
    window.room.on('layersWanted', (source, layer) => told.push(`${source} ${layer}`));
    window.room.on('subscribed', (subscription) => {
      const video = document.createElement('video');
      Object.assign(video, { autoplay: true, muted: true, srcObject: new MediaStream([subscription.track]) });
      document.body.append(video);
      streams[subscription.source] = { subscription, video };
    });
  }, server.ws, await server.token(user), room);
  return page;
}

const active = (page) => page.evaluate(() => room.producer('camera').rtpSender.getParameters().encodings.map((it) => it.active));
const width = (page) => page.evaluate(() => streams.camera?.video.videoWidth);
const prefer = (page, layer) => page.evaluate((layer) => room.setPreferredLayers(streams.camera.subscription.consumerId, layer), layer);

test('encodings are turned off when nobody watches them, and on again', async () => {
  const ann = await joined('ann', 'layers');
  await ann.evaluate(async () => {
    const stream = await navigator.mediaDevices.getUserMedia({ video: { width: 1280, height: 720 } });
    await room.publish(stream.getVideoTracks()[0]);
  });
  assert.deepEqual(await active(ann), [true, true, true]);
  await until('alone she sends the lowest', async () => (await active(ann)).join() === 'true,false,false');
  const bob = await joined('bob', 'layers');
  await until('bob gets the best', async () => (await width(bob)) === 1280);
  await prefer(bob, 1);
  await until('the middle one arrives', async () => (await width(bob)) === 640);
  await until('the top one is turned off', async () => (await active(ann)).join() === 'true,true,false');
  const scores = await ann.evaluate(() => new Promise((done) => (room.on('producerScore', (_source, scores) => done(scores)), setTimeout(() => done('no news'), 3000))));
  assert.ok(scores === 'no news' || scores.every(({ score }) => score > 0), `a layer that was turned off is no loss: ${JSON.stringify(scores)}`);
  await prefer(bob, 2);
  const took = await bob.evaluate(() => new Promise((done) => {
    const begun = performance.now();
    const look = () => (streams.camera.video.videoWidth === 1280 ? done(performance.now() - begun) : requestAnimationFrame(look));
    look();
  }));
  console.log(`the top layer was back after ${took.toFixed(0)} ms`);
  await bob.evaluate(() => room.leave());
  await until('nobody watches', async () => (await active(ann)).join() === 'true,false,false');
  assert.deepEqual(await ann.evaluate(() => told), ['camera 0', 'camera 2', 'camera 1', 'camera 2', 'camera 0']);
  for (const page of [ann, bob]) assert.deepEqual(await page.evaluate(() => errors), []);
});

test('an attached element gets the layer of its size, and nothing while nobody sees it', async () => {
  const ann = await joined('ann', 'tiles');
  await ann.evaluate(async () => {
    const stream = await navigator.mediaDevices.getUserMedia({ video: { width: 1280, height: 720 } });
    await room.publish(stream.getVideoTracks()[0]);
  });
  const bob = await joined('bob', 'tiles');
  await until('bob is subscribed', () => bob.evaluate(() => streams.camera !== undefined));
  await bob.evaluate(() => {
    window.tile = document.createElement('video');
    tile.muted = true;
    document.body.replaceChildren(tile);
    window.size = (width, height) => Object.assign(tile.style, { width: `${width}px`, height: `${height}px`, objectFit: 'cover' });
    size(160, 90);
    window.detach = room.attach(streams.camera.subscription.consumerId, tile);
  });
  const tileWidth = () => bob.evaluate(() => tile.videoWidth);
  const frames = () => bob.evaluate(() => tile.getVideoPlaybackQuality().totalVideoFrames);
  const received = () => bob.evaluate(async () => [...(await room.getStats())].find((stat) => stat.type === 'inbound-rtp' && stat.kind === 'video')?.packetsReceived);
  const stands = async () => {
    const before = await received();
    await new Promise((done) => setTimeout(done, 1000));
    return (await received()) === before;
  };
  await until('a small tile gets the lowest layer', async () => (await tileWidth()) === 320, 40_000);
  await until('and ann sends no other', async () => (await active(ann)).join() === 'true,false,false', 40_000);
  await bob.evaluate(() => size(760, 428));
  await until('a large one the top layer', async () => (await tileWidth()) === 1280, 40_000);
  await bob.evaluate(() => (tile.style.display = 'none'));
  await until('a hidden one nothing', stands, 40_000);
  await until('which ann hears of', async () => (await active(ann)).join() === 'true,false,false', 40_000);
  const before = await frames();
  await bob.evaluate(() => (tile.style.display = ''));
  await until('shown again it has a picture', async () => (await frames()) > before + 5, 40_000);
  await until('of its size', async () => (await tileWidth()) === 1280, 40_000);
  // Out of the window is out of sight as well.
  await bob.evaluate(() => Object.assign(tile.style, { position: 'absolute', top: '5000px' }));
  await until('scrolled away it gets nothing', stands, 40_000);
  await bob.evaluate(() => detach());
  assert.equal(await bob.evaluate(() => tile.srcObject), null);
  await bob.evaluate(() => room.resumeSubscription(streams.camera.subscription.consumerId));
  await until('what is detached is the app’s', async () => !(await stands()), 40_000);
  for (const page of [ann, bob]) assert.deepEqual(await page.evaluate(() => errors), []);
});

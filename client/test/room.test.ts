// A room whose media the server loses: who is told rejoins by itself, with everything that it had published.
import { beforeEach, describe, expect, test, vi } from 'vitest';
import { Room } from '../src/room';
import type { Signal } from '../src/signal';
import { FakeSocket, FakeTrack, connectedSignal, settle } from './fakes';

type Handler = (...args: never[]) => void;

class FakeProducer {
  closed = false;
  maxSpatialLayers: number[] = [];
  failure?: Error;
  constructor(readonly id: string) {}

  setMaxSpatialLayer(layer: number): Promise<void> {
    this.maxSpatialLayers.push(layer);
    return this.failure ? Promise.reject(this.failure) : Promise.resolve();
  }

  close(): void {
    this.closed = true;
  }
}

/** What mediasoup-client's transport does with signaling, and nothing of what it does with browsers. */
class FakeTransport {
  closed = false;
  connectionState = 'new';
  readonly #handlers = new Map<string, Handler>();
  readonly id: string;

  constructor(options: { id: string }) {
    this.id = options.id;
  }

  on(event: string, handler: Handler): void {
    this.#handlers.set(event, handler);
  }

  produce({ track, appData }: { track: FakeTrack; appData: Record<string, unknown> }): Promise<unknown> {
    if (this.closed) return Promise.reject(new Error('closed'));
    return new Promise((resolve, reject) => {
      const produce = this.#handlers.get('produce') as unknown as (what: object, done: (made: { id: string }) => void, fail: (error: Error) => void) => void;
      produce({ kind: track.kind, rtpParameters: {}, appData }, ({ id }) => resolve(new FakeProducer(id)), reject);
    });
  }

  produceData(): Promise<unknown> {
    return Promise.reject(new Error('no data channels here'));
  }

  close(): void {
    this.closed = true;
  }
}

class FakeDevice {
  rtpCapabilities = { codecs: [] };
  load = () => Promise.resolve();
  createSendTransport = (options: { id: string }) => new FakeTransport(options);
  createRecvTransport = (options: { id: string }) => new FakeTransport(options);
}

/** Answers whatever has been asked since the last time; `refuse` is a code for a type. */
class Server {
  #answered = 0;
  refuse: Record<string, string> = {};
  asked: string[] = [];

  constructor(readonly socket: FakeSocket) {}

  async answer(): Promise<void> {
    for (;;) {
      await settle();
      const message = this.socket.sent[this.#answered];
      if (!message) return;
      this.#answered++;
      const type = String(message.type);
      this.asked.push(type);
      const code = this.refuse[type];
      const data = type === 'join-room' ? { rtpCapabilities: {}, peerId: 'alice#2', peers: [], producers: [], dataProducers: [] } : { id: `${type}-${this.#answered}` };
      this.socket.say({ type: 'response', requestId: message.requestId, ...(code ? { ok: false, code, error: code } : { ok: true, data }) });
    }
  }

  count(type: string): number {
    return this.asked.filter((asked) => asked === type).length;
  }
}

let signal: Signal;
let server: Server;
let room: Room;
let heard: string[];

beforeEach(async () => {
  vi.useFakeTimers();
  FakeSocket.all = [];
  const connected = await connectedSignal();
  signal = connected.signal;
  server = new Server(connected.socket);
  const joining = Room.join(signal, 'r', { Device: FakeDevice as never });
  await server.answer();
  room = await joining;
  heard = [];
  room.on('removed', (reason) => heard.push(`removed ${reason}`));
  room.on('error', (error) => heard.push(`error ${String(error)}`));
  room.on('state', (state) => heard.push(state));
  const publishing = room.publish(new FakeTrack('audio') as never);
  await server.answer();
  await publishing;
  return () => vi.useRealTimers();
});

function loseTransports(): void {
  for (const id of [room.sendTransport?.id, room.recvTransport?.id]) server.socket.say({ type: 'transport-closed', transportId: id, reason: 'worker-failed' });
}

function producer(): FakeProducer {
  return room.producer('microphone') as unknown as FakeProducer;
}

describe('what the server tells of quality', () => {
  test('layers that nobody watches are turned off, and on again', async () => {
    room.on('layersWanted', (source, layer) => heard.push(`${source} ${layer}`));
    for (const spatialLayer of [0, 2]) server.socket.say({ type: 'producer-layers-wanted', producerId: producer().id, spatialLayer });
    await settle();
    expect(producer().maxSpatialLayers).toEqual([0, 2]);
    expect(heard).toEqual(['microphone 0', 'microphone 2']);
  });

  test('of a producer that is not ours any more nothing is turned off', async () => {
    server.socket.say({ type: 'producer-layers-wanted', producerId: 'other', spatialLayer: 0 });
    producer().failure = new Error('closed meanwhile');
    producer().closed = true;
    server.socket.say({ type: 'producer-layers-wanted', producerId: producer().id, spatialLayer: 0 });
    await settle();
    expect(producer().maxSpatialLayers).toEqual([0]);
    expect(heard).toEqual([]);
  });

  test('an encoding that the browser does not turn off is an error of the room', async () => {
    producer().failure = new Error('refused');
    server.socket.say({ type: 'producer-layers-wanted', producerId: producer().id, spatialLayer: 0 });
    await settle();
    expect(heard).toEqual(['error Error: refused']);
  });

  test('scores, the link and layers are events', () => {
    const events: unknown[] = [];
    room.on('producerScore', (...args) => events.push(args));
    room.on('consumerScore', (...args) => events.push(args));
    room.on('downlink', (...args) => events.push(args));
    room.on('layers', (...args) => events.push(args));
    const scores = [{ encodingIdx: 0, ssrc: 7, score: 9 }];
    const score = { score: 8, producerScore: 10, producerScores: [10, 0] };
    server.socket.say({ type: 'producer-score', producerId: producer().id, scores });
    server.socket.say({ type: 'producer-score', producerId: 'other', scores });
    server.socket.say({ type: 'consumer-score', consumerId: 'c', ...score });
    server.socket.say({ type: 'downlink', availableBitrate: 900_000, rating: 'good' });
    server.socket.say({ type: 'consumer-layers', consumerId: 'c', spatialLayer: 1, temporalLayer: 2 });
    server.socket.say({ type: 'consumer-layers', consumerId: 'c', spatialLayer: null, temporalLayer: null });
    expect(events).toEqual([['microphone', scores], ['c', score], [900_000, 'good'], ['c', 1, 2], ['c', null, null]]);
  });

  test('who speaks is told once, and nobody does who has left', async () => {
    const speakers: unknown[] = [];
    room.on('activeSpeaker', (peer) => speakers.push(peer));
    const say = (peerId: string | null) => server.socket.say({ type: 'active-speaker', peerId });
    expect([room.peerId, room.activeSpeaker]).toEqual(['alice#2', null]);
    say('bob');
    say('bob');
    expect(room.activeSpeaker).toBe('bob');
    server.socket.say({ type: 'peer-left', peerId: 'bob', reason: 'left' });
    say('carol');
    say(null);
    say('dave');
    loseTransports();
    await server.answer();
    expect(speakers).toEqual(['bob', null, 'carol', null, 'dave', null]);
  });
});

describe('a media worker that fails', () => {
  test('makes the room join once again and publish again', async () => {
    const before = room.producer('microphone')?.id;
    const sent = room.sendTransport;
    loseTransports();
    await server.answer();
    expect(sent?.closed).toBe(true);
    expect(heard).toEqual(['reconnecting', 'joined']);
    expect(server.count('join-room')).toBe(2);
    expect(server.count('produce')).toBe(2);
    expect(room.producer('microphone')?.id).not.toBe(before);
  });

  test('is heard of before there is a transport, too', async () => {
    server.socket.say({ type: 'room-closed', reason: 'failed' });
    await server.answer();
    expect(heard).toEqual(['reconnecting', 'joined']);
    expect(server.count('join-room')).toBe(2);
  });

  test('again while the room is joined again', async () => {
    server.refuse = { 'create-transport': 'room-not-found' };
    loseTransports();
    await server.answer();
    expect(heard).toEqual(['reconnecting']);
    server.refuse = {};
    await vi.advanceTimersByTimeAsync(500);
    await server.answer();
    expect(heard).toEqual(['reconnecting', 'joined']);
    expect(server.count('join-room')).toBe(3);
    expect(server.count('produce')).toBe(2);
  });

  test('for good is an end after some attempts', async () => {
    server.refuse = { 'join-room': 'overloaded' };
    loseTransports();
    for (let second = 0; second < 120; second++) {
      await server.answer();
      await vi.advanceTimersByTimeAsync(1000);
    }
    expect(server.count('join-room')).toBe(1 + 8);
    expect(heard.at(-1)).toBe('left');
    expect(heard).toContain('removed overloaded');
  });
});

test('what is told of former transports is past', async () => {
  server.socket.say({ type: 'transport-closed', transportId: 'another', reason: 'ice-timeout' });
  await server.answer();
  expect(heard).toEqual([]);
});

test('a refusal that will not change ends the room', async () => {
  server.refuse = { 'join-room': 'forbidden' };
  loseTransports();
  await server.answer();
  expect(heard).toEqual(['reconnecting', 'error SignalError: forbidden', 'removed forbidden', 'left']);
});

test('a room that an admin closes stays closed', async () => {
  server.socket.say({ type: 'room-closed', reason: 'closed' });
  await server.answer();
  expect(heard).toEqual(['removed closed', 'left']);
  expect(server.count('join-room')).toBe(1);
});

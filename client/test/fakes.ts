// Stand-ins for what browsers have and happy-dom does not: a scripted WebSocket, media streams and peer connections.
import { vi } from 'vitest';
import { Signal } from '../src/signal';

/** A socket whose other end is the test: it sees what was sent and says what it likes. */
export class FakeSocket {
  static all: FakeSocket[] = [];
  static get last(): FakeSocket {
    return FakeSocket.all.at(-1)!;
  }
  readyState = 0;
  sent: Record<string, unknown>[] = [];
  closedWith?: number;
  onmessage: ((event: { data: string }) => void) | null = null;
  onclose: ((event: { code: number; reason: string }) => void) | null = null;
  readonly url: URL;

  constructor(url: string | URL, readonly protocols: string[]) {
    this.url = new URL(url);
    FakeSocket.all.push(this);
  }

  send(text: string): void {
    this.sent.push(JSON.parse(text) as Record<string, unknown>);
  }

  close(code = 1005): void {
    this.readyState = 3;
    this.closedWith = code;
  }

  /** The server says something. */
  say(message: Record<string, unknown>): void {
    this.onmessage?.({ data: JSON.stringify(message) });
  }

  welcome(fields: Record<string, unknown> = {}): void {
    this.readyState = 1;
    this.say({ type: 'connected', userId: 'me', sessionId: 's1', resumed: false, iceServers: [{ urls: 'stun:x' }], heartbeatMs: 15000, ...fields });
  }

  /** The connection ends, from the server's side or the network's. */
  drop(code = 1006, reason = ''): void {
    this.readyState = 3;
    this.onclose?.({ code, reason });
  }

  types(): unknown[] {
    return this.sent.map((message) => message.type);
  }

  of(type: string): Record<string, unknown>[] {
    return this.sent.filter((message) => message.type === type);
  }
}

/** Lets promises settle; timers stay where they are. */
export async function settle(): Promise<void> {
  for (let turn = 0; turn < 30; turn++) await Promise.resolve();
}

export function newSignal(options: Partial<ConstructorParameters<typeof Signal>[0]> = {}): Signal {
  return new Signal({ url: 'wss://call.example.org/ws', token: () => 'jwt', WebSocket: FakeSocket as never, ...options });
}

export async function connectedSignal(): Promise<{ signal: Signal; socket: FakeSocket }> {
  const signal = newSignal();
  const ready = signal.connect();
  await settle();
  FakeSocket.last.welcome();
  await ready;
  return { signal, socket: FakeSocket.last };
}

export class FakeTrack {
  enabled = true;
  readyState: 'live' | 'ended' = 'live';
  onended: (() => void) | null = null;
  constructor(readonly kind: 'audio' | 'video', readonly settings: MediaTrackSettings = {}) {}
  stop(): void {
    this.readyState = 'ended';
  }
  getSettings(): MediaTrackSettings {
    return this.settings;
  }
}

export class FakeStream {
  #tracks: FakeTrack[];
  constructor(tracks: FakeTrack[] = []) {
    this.#tracks = [...tracks];
  }
  getTracks = (): FakeTrack[] => [...this.#tracks];
  getAudioTracks = (): FakeTrack[] => this.#tracks.filter((track) => track.kind === 'audio');
  getVideoTracks = (): FakeTrack[] => this.#tracks.filter((track) => track.kind === 'video');
  addTrack(track: FakeTrack): void {
    if (!this.#tracks.includes(track)) this.#tracks.push(track);
  }
  removeTrack(track: FakeTrack): void {
    this.#tracks = this.#tracks.filter((other) => other !== track);
  }
}

/** The media a test hands to a call in place of devices. */
export function media(...tracks: FakeTrack[]): MediaStream {
  return new FakeStream(tracks) as unknown as MediaStream;
}

interface FakeSender {
  track: FakeTrack | null;
  replaceTrack(track: FakeTrack | null): Promise<void>;
}

/** Signaling states as W3C webrtc-pc §4.3.1 has them; media does not exist. */
export class FakePeer {
  static all: FakePeer[] = [];
  static get last(): FakePeer {
    return FakePeer.all.at(-1)!;
  }
  readonly session = 1000 + FakePeer.all.length;
  signalingState = 'stable';
  connectionState = 'new';
  localDescription: { type: string; sdp: string } | null = null;
  remoteDescription: { type: string; sdp: string } | null = null;
  candidates: unknown[] = [];
  senders: FakeSender[] = [];
  restarts = 0;
  rollbacks = 0;
  closed = false;
  channel = { readyState: 'connecting', binaryType: '', sent: [] as unknown[], onopen: null as (() => void) | null, onmessage: null as ((event: { data: unknown }) => void) | null, send: (data: unknown) => void this.channel.sent.push(data) };
  onicecandidate: ((event: { candidate: unknown }) => void) | null = null;
  onnegotiationneeded: (() => void) | null = null;
  ontrack: (() => void) | null = null;
  onconnectionstatechange: (() => void) | null = null;

  constructor(readonly configuration: RTCConfiguration) {
    FakePeer.all.push(this);
  }

  createDataChannel = () => this.channel;
  getTransceivers = () => [];
  getSenders = () => this.senders;
  addTrack(track: FakeTrack): void {
    const sender: FakeSender = { track, replaceTrack: async (next) => void (sender.track = next) };
    this.senders.push(sender);
    this.onnegotiationneeded?.();
  }
  removeTrack(sender: FakeSender): void {
    sender.track = null;
    this.onnegotiationneeded?.();
  }
  async setLocalDescription(): Promise<void> {
    const type = this.signalingState === 'have-remote-offer' ? 'answer' : 'offer';
    await Promise.resolve();
    this.localDescription = { type, sdp: sdp(this.session) };
    this.signalingState = type === 'offer' ? 'have-local-offer' : 'stable';
  }
  async setRemoteDescription(description: { type: string; sdp: string }): Promise<void> {
    await Promise.resolve();
    if (description.type === 'offer' && this.signalingState === 'have-local-offer') this.rollbacks++;
    if (description.type === 'answer' && this.signalingState !== 'have-local-offer') throw new Error('InvalidStateError');
    this.remoteDescription = description;
    this.signalingState = description.type === 'offer' ? 'have-remote-offer' : 'stable';
  }
  async addIceCandidate(candidate: unknown): Promise<void> {
    if (!this.remoteDescription) throw new Error('InvalidStateError');
    this.candidates.push(candidate);
  }
  restartIce(): void {
    this.restarts++;
    this.onnegotiationneeded?.();
  }
  close(): void {
    this.closed = true;
  }

  /** The browser finds that the connection is now so. */
  becomes(state: string): void {
    this.connectionState = state;
    this.onconnectionstatechange?.();
  }
}

export function sdp(session: number | string): string {
  return `v=0\r\no=- ${session} 2 IN IP4 127.0.0.1\r\ns=-\r\n`;
}

export function installFakes(): void {
  FakeSocket.all = [];
  FakePeer.all = [];
  vi.stubGlobal('MediaStream', FakeStream);
  vi.stubGlobal('RTCPeerConnection', FakePeer);
}

/** What `navigator.mediaDevices` answers. */
export function installDevices(devices: Record<string, unknown> | undefined): void {
  Object.defineProperty(navigator, 'mediaDevices', { value: devices, configurable: true });
}

// A call between two people, peer to peer. Perfect negotiation (W3C webrtc-pc §10.7): the caller is impolite, the callee
// polite. The server only relays; when a third person joins or ICE cannot get through, the call moves to a room.
import { CAMERA, MICROPHONE, openDevices, openNextCamera, openScreen } from './devices';
import { Emitter } from './emitter';
import type { CallType, IncomingCallMessage, ServerMessage } from './messages';
import type { Signal } from './signal';

export type CallState = 'ringing' | 'connecting' | 'connected' | 'reconnecting' | 'upgraded' | 'ended';

type CallEvents = {
  state: [state: CallState];
  /** The other side's audio and video; the same stream object for the whole call. */
  remote: [stream: MediaStream];
  /** What we send has changed: a camera was switched, a screen is shared or no longer. */
  local: [stream: MediaStream];
  /** A chat or application message over the data channel. */
  data: [data: string | ArrayBuffer];
  dataOpen: [];
  /** Move to this room: `detach()` gives what to publish there. */
  upgraded: [roomId: string];
  ended: [reason: string, by: string | undefined];
  error: [error: unknown];
};

/** What is needed to go on with a call after a page reload; keep it beside `Signal.sessionId`. */
export interface CallTicket {
  callId: string;
  peerId: string;
  callType: CallType;
  initiator: boolean;
}

/** What a call was sending when it moved to a room, each under the source that `Room.publish` takes. */
export interface CallMedia {
  microphone?: MediaStreamTrack;
  camera?: MediaStreamTrack;
  screen?: MediaStreamTrack;
}

/** ICE restarts are given this long before the call moves to the server. */
const RESTART_PATIENCE_MS = 8_000;
/** `disconnected` often heals by itself; after this it is treated as failed. */
const DISCONNECTED_PATIENCE_MS = 3_000;
/** A call rings no longer than this without a server behind it; by then the server has ended it for us (grace: 10 s). */
const OFFLINE_RING_MS = 15_000;
/** Messages that may wait for a ringing call to be answered. */
const EARLY_MAX = 200;

const RELAYED = new Set(['offer', 'answer', 'renegotiate', 'ice-candidate']);

/** Somebody is ringing. Collects what arrives for the call until it is answered. */
export class IncomingCall extends Emitter<{ ended: [reason: string] }> {
  readonly callId: string;
  readonly from: string;
  readonly callType: CallType;
  readonly #signal: Signal;
  readonly #early: ServerMessage[] = [];
  readonly #offs: (() => void)[];
  #offline?: ReturnType<typeof setTimeout>;
  #open = true;

  constructor(signal: Signal, message: IncomingCallMessage) {
    super();
    this.#signal = signal;
    this.callId = message.callId;
    this.from = message.initiatorId;
    this.callType = message.callType;
    this.#offs = [
      signal.on('message', (m) => {
        if (m.callId !== this.callId) return;
        if (RELAYED.has(m.type) && this.#early.length < EARLY_MAX) this.#early.push(m);
        if (m.type === 'call-ended') this.#finish(String(m.reason ?? 'ended'));
      }),
      signal.on('state', (state) => {
        clearTimeout(this.#offline);
        if (state === 'reconnecting') this.#offline = setTimeout(() => this.#finish('disconnected'), OFFLINE_RING_MS);
      }),
      signal.on('connected', ({ resumed }) => {
        if (!resumed) this.#finish('disconnected');
      }),
      signal.on('closed', () => this.#finish('disconnected')),
    ];
  }

  /** Takes the call with the media of its type, or with `media` (an empty stream joins without devices). */
  async answer(media?: MediaStream): Promise<Call> {
    const call = new Call(this.#signal, { callId: this.callId, peerId: this.from, callType: this.callType, initiator: false });
    try {
      await call.openMedia(media);
    } catch (error) {
      call.abandon();
      throw error;
    }
    if (!this.#open) {
      call.abandon();
      throw new Error('The call has ended');
    }
    this.#close();
    this.#signal.send({ type: 'call-answer', callId: this.callId });
    call.begin(this.#early);
    return call;
  }

  reject(reason = 'declined'): void {
    if (!this.#open) return;
    this.#signal.send({ type: 'call-reject', callId: this.callId, reason });
    this.#finish('rejected');
  }

  #finish(reason: string): void {
    if (!this.#open) return;
    this.#close();
    this.emit('ended', reason);
  }

  #close(): void {
    this.#open = false;
    clearTimeout(this.#offline);
    for (const off of this.#offs) off();
  }
}

export class Call extends Emitter<CallEvents> {
  readonly callId: string;
  readonly callType: CallType;
  readonly initiator: boolean;
  readonly local = new MediaStream();
  readonly remote = new MediaStream();
  readonly #signal: Signal;
  readonly #offs: (() => void)[] = [];
  #peerId: string;
  #state: CallState = 'ringing';
  #pc?: RTCPeerConnection;
  #channel?: RTCDataChannel;
  #camera?: MediaStreamTrack;
  #screen?: MediaStreamTrack;
  #muted = false;
  #cameraOff = false;
  #makingOffer = false;
  #ignoreOffer = false;
  /** One offer and answer have passed: from here on either side may renegotiate. */
  #established = false;
  #remoteSession?: string;
  #candidates: RTCIceCandidateInit[] = [];
  #work: Promise<void> = Promise.resolve();
  #patience?: ReturnType<typeof setTimeout>;
  #restarts = 0;

  /** Rings `to`. Resolves when the devices are open and the call is placed; `state` tells the rest. */
  static async place(signal: Signal, to: string | string[], callType: CallType, media?: MediaStream): Promise<Call> {
    const recipients = Array.isArray(to) ? to : [to];
    const call = new Call(signal, { callId: crypto.randomUUID(), peerId: recipients[0] ?? '', callType, initiator: true });
    try {
      await call.openMedia(media);
    } catch (error) {
      call.abandon();
      throw error;
    }
    signal.send({ type: 'call-initiate', callId: call.callId, recipientIds: recipients, callType });
    return call;
  }

  /** Calls `onIncoming` for everyone who rings; whoever rings while `busy()` is told so. Returns what stops it. */
  static listen(signal: Signal, onIncoming: (call: IncomingCall) => void, busy: () => boolean = () => false): () => void {
    return signal.on('message', (message) => {
      if (message.type !== 'incoming-call') return;
      const incoming = new IncomingCall(signal, message as unknown as IncomingCallMessage);
      if (busy()) incoming.reject('busy');
      else onIncoming(incoming);
    });
  }

  /** Goes on with a call after a page reload, within the server's grace. */
  static async rejoin(signal: Signal, ticket: CallTicket, media?: MediaStream): Promise<Call> {
    const call = new Call(signal, ticket);
    try {
      await call.openMedia(media);
    } catch (error) {
      call.abandon();
      throw error;
    }
    call.#setState('connecting');
    call.#connect();
    call.#established = true;
    await call.#negotiate();
    return call;
  }

  constructor(signal: Signal, ticket: CallTicket) {
    super();
    this.#signal = signal;
    this.callId = ticket.callId;
    this.callType = ticket.callType;
    this.initiator = ticket.initiator;
    this.#peerId = ticket.peerId;
    this.#offs.push(
      signal.on('message', (message) => this.#onMessage(message)),
      signal.on('error', (error, message) => {
        if (message.callId === this.callId) this.#onRefusal(error.code, error.message);
      }),
      signal.on('connected', ({ resumed }) => {
        if (!resumed) this.#finish('disconnected', undefined);
      }),
      signal.on('closed', () => this.#finish('disconnected', undefined)),
    );
  }

  get state(): CallState {
    return this.#state;
  }

  get peerId(): string {
    return this.#peerId;
  }

  get ticket(): CallTicket {
    return { callId: this.callId, peerId: this.#peerId, callType: this.callType, initiator: this.initiator };
  }

  get muted(): boolean {
    return this.#muted;
  }

  get cameraOff(): boolean {
    return this.#cameraOff;
  }

  get sharing(): boolean {
    return this.#screen !== undefined;
  }

  /** For statistics; undefined while it rings. */
  get peerConnection(): RTCPeerConnection | undefined {
    return this.#pc;
  }

  setMuted(muted: boolean): void {
    this.#muted = muted;
    this.#applyEnabled();
  }

  /** Also hides a shared screen: nothing of ours is seen while it is off. */
  setCameraOff(off: boolean): void {
    this.#cameraOff = off;
    this.#applyEnabled();
  }

  /** The next camera. A camera that was off stays off, and a shared screen stays shared. */
  async switchCamera(): Promise<void> {
    const previous = this.#camera;
    if (!previous) return;
    const next = await openNextCamera(previous);
    if (this.#state === 'ended') return next.stop();
    this.#camera = next;
    this.#applyEnabled();
    if (!this.#screen) await this.#sendVideo(next);
    previous.stop();
  }

  /** Shares a screen in place of the camera, or beside the voice in an audio call. */
  async shareScreen(): Promise<void> {
    if (this.#screen) return;
    const track = (await openScreen()).getVideoTracks()[0];
    if (!track) return;
    if (this.#state === 'ended') return track.stop();
    this.#screen = track;
    // The browser's own "stop sharing" button.
    track.onended = () => void this.stopShare();
    this.#applyEnabled();
    await this.#sendVideo(track);
  }

  async stopShare(): Promise<void> {
    const track = this.#screen;
    if (!track) return;
    this.#screen = undefined;
    track.onended = null;
    track.stop();
    await this.#sendVideo(this.#camera);
  }

  /** Sends over the data channel; false while it is not open. */
  sendData(data: string | ArrayBuffer): boolean {
    if (this.#channel?.readyState !== 'open') return false;
    this.#channel.send(data as string);
    return true;
  }

  /** Asks others in; when a third person joins, the call moves to a room. */
  invite(recipientIds: string[]): void {
    this.#signal.send({ type: 'call-invite', callId: this.callId, recipientIds });
  }

  /** New ICE credentials and candidates under running media. */
  restartIce(): void {
    this.#pc?.restartIce();
  }

  /** Moves the call to a room on the server; both sides are told by `upgraded`. */
  upgrade(): void {
    this.#signal.send({ type: 'call-upgrade', callId: this.callId });
  }

  hangUp(forAll = false): void {
    if (this.#state === 'ended') return;
    this.#signal.send({ type: 'call-end', callId: this.callId, ...(forAll ? { forAll } : {}) });
    this.#finish('hangup', this.#signal.userId);
  }

  /**
   * Closes the peer connection and gives its live tracks away, for publishing in the room that the call moved to. What was
   * muted or off stays so: its track is disabled, and `Room.publish` takes that over.
   */
  detach(): CallMedia {
    const [microphone, camera, screen] = [this.local.getAudioTracks()[0], this.#camera, this.#screen];
    // The call no longer owns them.
    for (const track of this.local.getTracks()) this.local.removeTrack(track);
    this.#camera = this.#screen = undefined;
    this.#disconnect();
    if (screen) screen.onended = null;
    // In a room camera and screen are two: a screen that was hidden with the camera must not come to light there.
    if (this.#cameraOff) screen?.stop();
    const shown = this.#cameraOff ? undefined : screen;
    return { ...(microphone ? { microphone } : {}), ...(camera ? { camera } : {}), ...(shown ? { screen: shown } : {}) };
  }

  /** @internal Opens the devices of the call's type. */
  async openMedia(media?: MediaStream): Promise<void> {
    const stream = media ?? (await openDevices({ audio: MICROPHONE, video: this.callType === 'video' ? CAMERA : false }));
    if (this.#state === 'ended') {
      for (const track of stream.getTracks()) track.stop();
      throw new Error('The call has ended');
    }
    for (const track of stream.getTracks()) this.local.addTrack(track);
    this.#camera = stream.getVideoTracks()[0];
  }

  /** @internal The callee's start: waits for the offer, of which some may be here already. */
  begin(early: ServerMessage[]): void {
    this.#setState('connecting');
    for (const message of early) this.#onMessage(message);
  }

  /** @internal Ends without telling anybody: the call was never placed or answered. */
  abandon(): void {
    this.#finish('abandoned', undefined);
  }

  #onMessage(message: ServerMessage): void {
    if (message.callId !== this.callId || this.#state === 'ended') return;
    if (RELAYED.has(message.type)) {
      // Only the person we are in this call with may change its media.
      if (message.senderId !== this.#peerId) return;
      // While we open our devices, `IncomingCall` keeps what comes: nothing is negotiated before the call is answered.
      if (this.#state === 'ringing') return;
      return this.#queue(() => this.#onRelayed(message));
    }
    switch (message.type) {
      case 'call-answered':
        return this.#onAnswered(String(message.userId));
      case 'call-rejected':
        // With several recipients the others may still answer; the server ends the call when nobody is left.
        return;
      case 'call-upgraded':
        this.#setState('upgraded');
        this.emit('upgraded', String(message.roomId));
        return;
      case 'call-ended':
        return this.#finish(String(message.reason ?? 'ended'), message.endedBy as string | undefined);
    }
  }

  #onAnswered(userId: string): void {
    if (!this.initiator || this.#pc || userId === this.#signal.userId) return;
    this.#peerId = userId;
    this.#setState('connecting');
    this.#connect();
    this.#queue(() => this.#negotiate());
  }

  #onRefusal(code: string, text: string): void {
    if (code === 'call-not-found' || code === 'not-in-call' || code === 'call-exists') this.#finish(code, undefined);
    else this.emit('error', new Error(text));
  }

  /** Signaling is handled strictly in order: each step awaits the browser. */
  #queue(step: () => Promise<void>): void {
    this.#work = this.#work.then(step).catch((error: unknown) => {
      if (this.#state !== 'ended') this.emit('error', error);
    });
  }

  async #onRelayed(message: ServerMessage): Promise<void> {
    if (message.type === 'ice-candidate') return this.#onCandidate(message.candidate as RTCIceCandidateInit | null);
    const answer = message.type === 'answer';
    const description: RTCSessionDescriptionInit = { type: answer ? 'answer' : 'offer', sdp: sdpText(message.sdp) };
    const session = sessionOf(description.sdp);
    if (!answer && this.#pc && this.#remoteSession && session !== this.#remoteSession) {
      // The other side has reloaded its page: this is another peer connection than the one we talked to.
      this.#disconnect();
    }
    if (!this.#pc) {
      if (answer) return;
      this.#connect();
    }
    const pc = this.#pc!;
    if (answer && pc.signalingState !== 'have-local-offer') return;
    const collision = !answer && (this.#makingOffer || pc.signalingState !== 'stable');
    this.#ignoreOffer = this.initiator && collision;
    if (this.#ignoreOffer) return;
    await pc.setRemoteDescription(description);
    this.#remoteSession = session;
    for (const candidate of this.#candidates.splice(0)) await this.#addCandidate(candidate);
    if (!answer) {
      await pc.setLocalDescription();
      this.#relay('answer', { sdp: pc.localDescription!.sdp });
    }
    this.#established = true;
    this.#refreshRemote();
  }

  async #onCandidate(candidate: RTCIceCandidateInit | null): Promise<void> {
    if (!candidate) return;
    if (!this.#pc?.remoteDescription) {
      if (this.#candidates.length < EARLY_MAX) this.#candidates.push(candidate);
      return;
    }
    await this.#addCandidate(candidate);
  }

  async #addCandidate(candidate: RTCIceCandidateInit): Promise<void> {
    try {
      await this.#pc!.addIceCandidate(candidate);
    } catch (error) {
      // Candidates of an offer that we ignored have no place; any other failure is worth knowing.
      if (!this.#ignoreOffer) this.emit('error', error);
    }
  }

  #relay(type: string, fields: Record<string, unknown>): void {
    this.#signal.send({ type, callId: this.callId, recipientId: this.#peerId, ...fields });
  }

  async #negotiate(): Promise<void> {
    const pc = this.#pc;
    if (!pc || pc.signalingState !== 'stable') return;
    try {
      this.#makingOffer = true;
      await pc.setLocalDescription();
      if (pc !== this.#pc || pc.localDescription?.type !== 'offer') return;
      this.#relay(this.#established ? 'renegotiate' : 'offer', { sdp: pc.localDescription.sdp });
    } finally {
      this.#makingOffer = false;
    }
  }

  #connect(): void {
    // No candidate pool: with one, Chromium's ICE restart keeps its old credentials.
    const pc = new RTCPeerConnection({ iceServers: this.#signal.iceServers, iceCandidatePoolSize: 0 });
    this.#pc = pc;
    this.#remoteSession = undefined;
    const channel = pc.createDataChannel('data', { negotiated: true, id: 0 });
    channel.binaryType = 'arraybuffer';
    channel.onopen = () => this.emit('dataOpen');
    channel.onmessage = (event) => this.emit('data', event.data as string | ArrayBuffer);
    this.#channel = channel;
    for (const track of this.local.getTracks()) pc.addTrack(track, this.local);
    this.#applyEnabled();
    pc.onicecandidate = ({ candidate }) => candidate && this.#relay('ice-candidate', { candidate: candidate.toJSON() });
    pc.onnegotiationneeded = () => {
      // The first offer is the caller's, made when the call is answered.
      if (this.#established) this.#queue(() => this.#negotiate());
    };
    pc.ontrack = () => this.#refreshRemote();
    pc.onconnectionstatechange = () => pc === this.#pc && this.#onConnectionState(pc.connectionState);
  }

  #onConnectionState(state: RTCPeerConnectionState): void {
    clearTimeout(this.#patience);
    if (state === 'connected') {
      this.#restarts = 0;
      this.#setState('connected');
    } else if (state === 'disconnected') {
      this.#setState('reconnecting');
      this.#patience = setTimeout(() => this.#recover(), DISCONNECTED_PATIENCE_MS);
    } else if (state === 'failed') {
      this.#setState('reconnecting');
      this.#recover();
    }
  }

  /** One side restarts ICE (the caller); when that does not help either side moves the call to the server. */
  #recover(): void {
    clearTimeout(this.#patience);
    if (this.#state !== 'reconnecting') return;
    if (this.#signal.state !== 'connected') {
      this.#patience = setTimeout(() => this.#recover(), DISCONNECTED_PATIENCE_MS);
      return;
    }
    if (this.#restarts++ === 0) {
      if (this.initiator) this.#pc?.restartIce();
      this.#patience = setTimeout(() => this.#recover(), this.initiator ? RESTART_PATIENCE_MS : 2 * RESTART_PATIENCE_MS);
    } else {
      this.upgrade();
    }
  }

  /** What the other side really sends now, after each negotiation. */
  #refreshRemote(): void {
    const live = (this.#pc?.getTransceivers() ?? [])
      .filter((t) => t.currentDirection === null || t.currentDirection.includes('recv'))
      .map((t) => t.receiver.track)
      .filter((track) => track.readyState === 'live');
    for (const track of this.remote.getTracks()) if (!live.includes(track)) this.remote.removeTrack(track);
    for (const track of live) if (!this.remote.getTracks().includes(track)) this.remote.addTrack(track);
    this.emit('remote', this.remote);
  }

  /** Sends this picture, or none. Only the first picture and the last change what is negotiated. */
  async #sendVideo(track: MediaStreamTrack | undefined): Promise<void> {
    for (const old of this.local.getVideoTracks()) this.local.removeTrack(old);
    if (track) this.local.addTrack(track);
    const sender = this.#pc?.getSenders().find((s) => s.track?.kind === 'video');
    if (track && sender) await sender.replaceTrack(track);
    else if (track) this.#pc?.addTrack(track, this.local);
    else if (sender) this.#pc?.removeTrack(sender);
    this.#applyEnabled();
    this.emit('local', this.local);
  }

  #applyEnabled(): void {
    for (const track of this.local.getAudioTracks()) track.enabled = !this.#muted;
    for (const track of this.local.getVideoTracks()) track.enabled = !this.#cameraOff;
    if (this.#camera) this.#camera.enabled = !this.#cameraOff;
    if (this.#screen) this.#screen.enabled = !this.#cameraOff;
  }

  #disconnect(): void {
    clearTimeout(this.#patience);
    const pc = this.#pc;
    this.#pc = undefined;
    this.#channel = undefined;
    this.#makingOffer = this.#ignoreOffer = this.#established = false;
    this.#candidates = [];
    this.#remoteSession = undefined;
    if (!pc) return;
    pc.onicecandidate = pc.onnegotiationneeded = pc.ontrack = pc.onconnectionstatechange = null;
    pc.close();
  }

  #finish(reason: string, by: string | undefined): void {
    if (this.#state === 'ended') return;
    this.#disconnect();
    for (const off of this.#offs) off();
    for (const track of [...this.local.getTracks(), this.#camera, this.#screen]) track?.stop();
    this.#setState('ended');
    this.emit('ended', reason, by);
    this.removeListeners();
  }

  #setState(state: CallState): void {
    if (this.#state === state || this.#state === 'ended' || (this.#state === 'upgraded' && state !== 'ended')) return;
    this.#state = state;
    this.emit('state', state);
  }
}

/** The SDP of a message: ours is text, other clients send `{type, sdp}`. */
export function sdpText(sdp: unknown): string {
  return typeof sdp === 'string' ? sdp : String((sdp as { sdp?: unknown } | null)?.sdp ?? '');
}

/** The session id of an SDP's origin line (RFC 8866 §5.2): it stays for the life of a peer connection. */
export function sessionOf(sdp: string | undefined): string {
  return /^o=\S+ (\S+)/m.exec(sdp ?? '')?.[1] ?? '';
}

// One session with the server over a WebSocket that may come and go: connects, resumes, queues, correlates requests.
import { Emitter } from './emitter';
import { SignalError, type ClientMessage, type Connected, type ServerMessage } from './messages';

export interface SignalOptions {
  /** `wss://call.example.org/ws`. */
  url: string;
  /** Called for every connection, so that an expired token can be renewed. */
  token: () => string | Promise<string>;
  /** A session id kept from before a page reload. */
  resume?: string;
  /** For tests. */
  WebSocket?: typeof WebSocket;
}

export type SignalState = 'connecting' | 'connected' | 'reconnecting' | 'closed';

type Events = {
  state: [state: SignalState];
  /** Every connection, the first and the later ones; `resumed` tells whether calls and rooms are still there. */
  connected: [info: Connected];
  message: [message: ServerMessage];
  /** An `error` message. */
  error: [error: SignalError, message: ServerMessage];
  /** For good: we closed, or the server refused us. */
  closed: [reason: string];
};

/** What waits while there is no connection; the oldest go first when it overflows, as they are the most stale. */
const OUTBOX_MAX = 256;
const REQUEST_TIMEOUT_MS = 15_000;
const BACKOFF_FIRST_MS = 250;
const BACKOFF_MAX_MS = 10_000;
/** While the server keeps the session (10 s by default) waits stay short, so that a brief outage does not outlast it. */
const GRACE_BACKOFF_MAX_MS = 2_000;
const GRACE_ATTEMPTS = 12;
/** Close code of the server for a bad token or an abuser (docs/protocol.md §1). */
const REFUSED = 1008;

interface Waiting {
  resolve: (data: never) => void;
  reject: (error: SignalError) => void;
  timer: ReturnType<typeof setTimeout>;
}

export class Signal extends Emitter<Events> {
  readonly #options: SignalOptions;
  readonly #waiting = new Map<number, Waiting>();
  #socket?: WebSocket;
  #outbox: ClientMessage[] = [];
  #state: SignalState = 'connecting';
  #session?: Connected;
  #nextRequest = 1;
  #attempt = 0;
  #retry?: ReturnType<typeof setTimeout>;
  readonly #online = () => this.#retryNow();

  constructor(options: SignalOptions) {
    super();
    this.#options = options;
  }

  get state(): SignalState {
    return this.#state;
  }

  /** Undefined before the first connection. */
  get userId(): string | undefined {
    return this.#session?.userId;
  }

  /** Keep it (in `sessionStorage`, say) and pass it as `resume` to survive a page reload. */
  get sessionId(): string | undefined {
    return this.#session?.sessionId ?? this.#options.resume;
  }

  get iceServers(): RTCIceServer[] {
    return this.#session?.iceServers ?? [];
  }

  /** Resolves when the server has said `connected`; rejects when it refuses us. */
  async connect(): Promise<Connected> {
    globalThis.addEventListener?.('online', this.#online);
    const ready = new Promise<Connected>((resolve, reject) => {
      const done = [
        this.on('connected', (info) => (done.forEach((off) => off()), resolve(info))),
        this.on('closed', (reason) => (done.forEach((off) => off()), reject(new SignalError(reason, 'closed')))),
      ];
    });
    void this.#open();
    return ready;
  }

  /** Sends now, or as soon as there is a connection again. */
  send(message: ClientMessage): void {
    if (this.#state === 'closed') return;
    if (this.#state === 'connected' && this.#socket?.readyState === 1) {
      this.#socket.send(JSON.stringify(message));
      return;
    }
    this.#outbox.push(message);
    if (this.#outbox.length > OUTBOX_MAX) this.#outbox.shift();
  }

  /** Sends a request and resolves with the data of its reply. */
  request<Reply = unknown>(type: string, fields: Record<string, unknown> = {}): Promise<Reply> {
    if (this.#state === 'closed') return Promise.reject(new SignalError('Not connected', 'closed'));
    const requestId = this.#nextRequest++;
    return new Promise<Reply>((resolve, reject) => {
      const timer = setTimeout(() => {
        this.#waiting.delete(requestId);
        reject(new SignalError(`No answer to ${type}`, 'timeout'));
      }, REQUEST_TIMEOUT_MS);
      this.#waiting.set(requestId, { resolve, reject, timer });
      this.send({ type, requestId, ...fields });
    });
  }

  /** Ends the session at once: calls and rooms of it are left. */
  close(): void {
    this.#finish('closed by us');
  }

  async #open(): Promise<void> {
    let token: string;
    try {
      token = await this.#options.token();
    } catch {
      return this.#scheduleRetry();
    }
    if (this.#state === 'closed') return;
    let socket: WebSocket;
    try {
      const url = new URL(this.#options.url);
      if (this.sessionId) url.searchParams.set('session', this.sessionId);
      const Socket = this.#options.WebSocket ?? WebSocket;
      // The token travels as a subprotocol: a query string would end up in access logs.
      socket = new Socket(url, ['causeway', token]);
    } catch {
      // What the browser refuses to try once it always will.
      return this.#finish('The address or the token is not valid');
    }
    this.#socket = socket;
    socket.onmessage = (event) => this.#onMessage(socket, event);
    socket.onclose = (event) => this.#onClose(socket, event);
  }

  #onMessage(socket: WebSocket, event: MessageEvent): void {
    if (socket !== this.#socket) return;
    let message: ServerMessage;
    try {
      message = JSON.parse(event.data as string) as ServerMessage;
    } catch {
      return;
    }
    switch (message.type) {
      case 'connected':
        return this.#onConnected(message as unknown as Connected);
      case 'response':
        return this.#onResponse(message);
      case 'error':
        this.emit('error', new SignalError(message.error ?? 'Error', message.code ?? 'error'), message);
        return;
      default:
        this.emit('message', message);
    }
  }

  #onConnected(info: Connected): void {
    const lost = this.#session !== undefined && !info.resumed;
    this.#session = info;
    this.#attempt = 0;
    if (lost) this.#rejectAll('The session was lost', 'session-lost');
    this.#setState('connected');
    // What was meant for a session that is gone would only be refused.
    const outbox = lost ? [] : this.#outbox;
    this.#outbox = [];
    for (const message of outbox) this.send(message);
    this.emit('connected', info);
  }

  #onResponse(message: ServerMessage): void {
    const waiting = this.#waiting.get(message.requestId as number);
    if (!waiting) return;
    this.#waiting.delete(message.requestId as number);
    clearTimeout(waiting.timer);
    if (message.ok) waiting.resolve((message.data ?? {}) as never);
    else waiting.reject(new SignalError(message.error ?? 'Refused', message.code ?? 'error'));
  }

  #onClose(socket: WebSocket, event: CloseEvent): void {
    if (socket !== this.#socket || this.#state === 'closed') return;
    this.#socket = undefined;
    if (event.code === REFUSED) return this.#finish(event.reason || 'Refused by the server');
    this.#setState('reconnecting');
    this.#scheduleRetry();
  }

  #scheduleRetry(): void {
    if (this.#state === 'closed') return;
    const longest = this.#attempt < GRACE_ATTEMPTS ? GRACE_BACKOFF_MAX_MS : BACKOFF_MAX_MS;
    const ceiling = Math.min(longest, BACKOFF_FIRST_MS * 2 ** this.#attempt++);
    // Half of it is random, so that a restarted server is not met by everybody at once.
    this.#retry = setTimeout(() => this.#retryNow(), ceiling / 2 + (Math.random() * ceiling) / 2);
  }

  #retryNow(): void {
    if (this.#state === 'closed' || this.#socket || this.#retry === undefined) return;
    clearTimeout(this.#retry);
    this.#retry = undefined;
    void this.#open();
  }

  #finish(reason: string): void {
    if (this.#state === 'closed') return;
    this.#setState('closed');
    globalThis.removeEventListener?.('online', this.#online);
    clearTimeout(this.#retry);
    this.#socket?.close(1000);
    this.#socket = undefined;
    this.#outbox = [];
    this.#rejectAll('Not connected', 'closed');
    this.emit('closed', reason);
  }

  #rejectAll(message: string, code: string): void {
    for (const { reject, timer } of this.#waiting.values()) {
      clearTimeout(timer);
      reject(new SignalError(message, code));
    }
    this.#waiting.clear();
  }

  #setState(state: SignalState): void {
    if (state === this.#state) return;
    this.#state = state;
    this.emit('state', state);
  }
}

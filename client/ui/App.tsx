import { LogOut, Phone, PhoneOff, Users, Video as VideoIcon } from 'lucide-react';
import { useCallback, useEffect, useRef, useState, type FormEvent } from 'react';
import { Call, DeviceError, Signal, type CallMedia, type CallType, type IncomingCall } from '../src/index';
import { CallScreen } from './CallScreen';
import { RoomScreen } from './RoomScreen';
import { useRefresh, useRingtone, useToasts } from './hooks';
import icon from './icon.svg';
import { Avatar } from './parts';
import { devToken, forget, keep, load } from './session';

type Screen = { at: 'home' } | { at: 'call'; call: Call } | { at: 'room'; roomId: string; media?: CallMedia; call?: Call };

const ENDINGS: Record<string, string> = {
  'no-answer': 'No answer.',
  declined: 'The call was declined.',
  rejected: 'The call was declined.',
  busy: 'Busy: in another call.',
  unavailable: 'Not online right now.',
  disconnected: 'The connection was lost.',
  hangup: 'The call has ended.',
  'answered-elsewhere': 'Answered on another device.',
  'call-not-found': 'The call has ended.',
  'not-in-call': 'The call has ended.',
};

function socketUrl(): string {
  return `${location.protocol === 'https:' ? 'wss' : 'ws'}://${location.host}/ws`;
}

export function App() {
  const [signal, setSignal] = useState<Signal>();
  const [toasts, toast] = useToasts();

  const signIn = useCallback(async (user: string, token: string, resume?: string) => {
    let current = token;
    let first = true;
    const next = new Signal({
      url: socketUrl(),
      // Later connections ask for a fresh token where the server gives them out.
      token: async () => {
        if (!first) current = (await devToken(user).catch(() => null)) ?? current;
        first = false;
        return current;
      },
      ...(resume ? { resume } : {}),
    });
    await next.connect();
    keep({ user: next.userId ?? user, token: current, sessionId: next.sessionId });
    next.on('connected', () => keep({ sessionId: next.sessionId }));
    next.on('closed', (reason) => {
      if (reason !== 'closed by us') toast(`Signed out: ${reason}`);
      setSignal(undefined);
    });
    setSignal(next);
  }, [toast]);

  return (
    <>
      {signal ? <SignedIn signal={signal} toast={toast} /> : <SignIn onSignIn={signIn} toast={toast} />}
      <div className="toasts" role="alert" data-testid="toasts">
        {toasts.map((t) => (
          <p key={t.id}>{t.text}</p>
        ))}
      </div>
    </>
  );
}

function SignIn({ onSignIn, toast }: { onSignIn: (user: string, token: string, resume?: string) => Promise<void>; toast: (text: string) => void }) {
  const [name, setName] = useState('');
  const [token, setToken] = useState('');
  const [needsToken, setNeedsToken] = useState(false);
  const kept = useRef(load());
  const [busy, setBusy] = useState(Boolean(kept.current.token));

  useEffect(() => {
    const { user, token, sessionId } = kept.current;
    if (!user || !token) return;
    // A reload: go on as before when the session is still there.
    onSignIn(user, token, sessionId).catch(() => {
      forget();
      setBusy(false);
    });
  }, [onSignIn]);

  const submit = async (event: FormEvent) => {
    event.preventDefault();
    setBusy(true);
    try {
      const given = needsToken ? token.trim() : await devToken(name.trim());
      if (given) await onSignIn(name.trim(), given);
      else setNeedsToken(true);
    } catch (error) {
      toast((error as Error).message);
    }
    setBusy(false);
  };

  return (
    <main className="front">
      <form className="card" onSubmit={(e) => void submit(e)}>
        <h1>
          <img src={icon} alt="" width="40" height="40" /> Causeway
        </h1>
        <p>Audio and video calls, one to one and in rooms.</p>
        {needsToken ? (
          <label>
            Access token
            <input value={token} onChange={(e) => setToken(e.target.value)} required autoFocus data-testid="sign-in-token" autoComplete="off" />
            <small>This server gives out no names: paste a token from your administrator.</small>
          </label>
        ) : (
          <label>
            Your name
            <input value={name} onChange={(e) => setName(e.target.value)} required autoFocus maxLength={64} pattern="[A-Za-z0-9._@:\-]+" title="Letters, digits and . _ @ : -" autoComplete="username" data-testid="sign-in-name" />
          </label>
        )}
        <button className="primary" type="submit" disabled={busy} data-testid="sign-in">
          {busy ? 'Signing in…' : 'Sign in'}
        </button>
      </form>
    </main>
  );
}

function SignedIn({ signal, toast }: { signal: Signal; toast: (text: string) => void }) {
  const [screen, setScreen] = useState<Screen>({ at: 'home' });
  const [incoming, setIncoming] = useState<IncomingCall>();
  const refresh = useRefresh();
  const busy = useRef(false);
  /** Devices are being opened for a call, which may take as long as a person takes to decide. */
  const opening = useRef(false);
  busy.current = screen.at !== 'home' || incoming !== undefined || opening.current;

  const home = useCallback(() => {
    keep({ call: undefined, room: undefined });
    setScreen({ at: 'home' });
  }, []);

  const enter = useCallback((call: Call) => {
    keep({ call: call.ticket });
    setScreen({ at: 'call', call });
    const timer = setTimeout(() => call.state === 'connecting' && toast('Still connecting; a firewall may be in the way.'), 10_000);
    call.on('state', () => keep({ call: call.ticket }));
    call.on('upgraded', (roomId) => {
      keep({ call: undefined, room: roomId });
      setScreen({ at: 'room', roomId, media: call.detach(), call });
    });
    call.on('ended', (reason, by) => {
      clearTimeout(timer);
      if (by !== signal.userId || reason !== 'hangup') toast(ENDINGS[reason] ?? `The call has ended: ${reason}`);
      setScreen((now) => {
        // A call that moved to a room ends when nobody else is left there. A session that was lost joins the room again.
        if (now.at === 'home' || now.call !== call || (now.at === 'room' && by === undefined)) return now;
        keep({ call: undefined, room: undefined });
        return { at: 'home' };
      });
    });
  }, [signal, toast]);

  useEffect(() => {
    const offs = [
      signal.on('state', refresh),
      signal.on('message', (message) => {
        if (message.type === 'call-rejected') toast(message.reason === 'busy' ? `${String(message.userId)} is in another call.` : `${String(message.userId)} declined.`);
      }),
      signal.on('error', (error, message) => toast(error.code === 'recipient-unavailable' ? `${String(message.userId ?? 'The other side')} is not online.` : error.message)),
      Call.listen(signal, (call) => {
        setIncoming(call);
        call.on('ended', (reason) => {
          setIncoming((now) => (now === call ? undefined : now));
          if (reason === 'hangup' || reason === 'no-answer' || reason === 'disconnected') toast(`Missed a call from ${call.from}.`);
        });
      }, () => busy.current),
    ];
    const { call, room } = load();
    if (call) Call.rejoin(signal, call).then(enter, () => home());
    else if (room) setScreen({ at: 'room', roomId: room });
    return () => offs.forEach((off) => off());
  }, [signal, enter, home, refresh, toast]);

  const place = async (to: string, callType: CallType) => {
    if (to === signal.userId) return toast('That is you: call somebody else.');
    await begin(() => Call.place(signal, to, callType));
  };
  const answer = async () => {
    const call = incoming!;
    setIncoming(undefined);
    await begin(() =>
      call.answer().catch((error: unknown) => {
        if (!(error instanceof DeviceError)) throw error;
        // Answer all the same: they can be heard and seen, and the reason is said.
        toast(`${error.message} You can watch and listen meanwhile.`);
        return call.answer(new MediaStream());
      }),
    );
  };
  /** One call at a time: a second click while devices open does nothing. */
  const begin = async (start: () => Promise<Call>) => {
    if (opening.current) return;
    opening.current = busy.current = true;
    try {
      enter(await start());
    } catch (error) {
      toast((error as Error).message);
    } finally {
      opening.current = false;
      refresh();
    }
  };

  return (
    <>
      {signal.state === 'reconnecting' && (
        <div className="banner" role="status">
          Connection lost, trying again…
        </div>
      )}
      {screen.at === 'home' && (
        <Home
          signal={signal}
          onCall={(to, type) => void place(to, type)}
          onRoom={(roomId) => {
            keep({ room: roomId });
            setScreen({ at: 'room', roomId });
          }}
          onSignOut={() => {
            forget();
            signal.close();
          }}
        />
      )}
      {screen.at === 'call' && <CallScreen signal={signal} call={screen.call} toast={toast} />}
      {screen.at === 'room' && (
        <RoomScreen
          key={screen.roomId}
          signal={signal}
          roomId={screen.roomId}
          {...(screen.media ? { media: screen.media } : {})}
          {...(screen.call ? { onInvite: (name: string) => screen.call?.invite([name]) } : {})}
          toast={toast}
          onLeft={() => {
            screen.call?.hangUp();
            home();
          }}
        />
      )}
      <Incoming call={incoming} onAnswer={() => void answer()} onReject={() => (incoming?.reject(), setIncoming(undefined))} />
    </>
  );
}

function Home({ signal, onCall, onRoom, onSignOut }: { signal: Signal; onCall: (to: string, type: CallType) => void; onRoom: (roomId: string) => void; onSignOut: () => void }) {
  const [callee, setCallee] = useState('');
  const [roomId, setRoomId] = useState('');
  const name = signal.userId ?? '';
  return (
    <main className="front">
      <div className="home">
        <header className="who">
          <Avatar name={name} />
          <div>
            <strong>{name}</strong>
            <small>Others can call you by this name.</small>
          </div>
          <button type="button" className="quiet" onClick={onSignOut} aria-label="Sign out" title="Sign out" data-testid="sign-out">
            <LogOut size={18} />
          </button>
        </header>
        <form className="card" onSubmit={(e) => (e.preventDefault(), onCall(callee.trim(), 'video'))}>
          <h2>Call somebody</h2>
          <label>
            Their name
            <input value={callee} onChange={(e) => setCallee(e.target.value)} required maxLength={128} pattern="\s*[A-Za-z0-9._@:\-]+\s*" title="Letters, digits and . _ @ : -" data-testid="callee" autoComplete="off" />
          </label>
          <div className="row">
            <button className="primary" type="submit" data-testid="call-video">
              <VideoIcon size={18} aria-hidden /> Video
            </button>
            <button type="button" onClick={(e) => e.currentTarget.form?.reportValidity() && onCall(callee.trim(), 'audio')} data-testid="call-audio">
              <Phone size={18} aria-hidden /> Voice
            </button>
          </div>
        </form>
        <form className="card" onSubmit={(e) => (e.preventDefault(), onRoom(roomId.trim()))}>
          <h2>Meet in a room</h2>
          <label>
            Room name
            <input value={roomId} onChange={(e) => setRoomId(e.target.value)} required maxLength={128} pattern="[A-Za-z0-9._@:\-]+" title="Letters, digits and . _ @ : -" data-testid="room-name" autoComplete="off" />
          </label>
          <button className="primary" type="submit" data-testid="join-room">
            <Users size={18} aria-hidden /> Join
          </button>
        </form>
      </div>
    </main>
  );
}

function Incoming({ call, onAnswer, onReject }: { call: IncomingCall | undefined; onAnswer: () => void; onReject: () => void }) {
  const dialog = useRef<HTMLDialogElement>(null);
  useRingtone(call !== undefined);
  useEffect(() => {
    if (call) dialog.current?.showModal();
    else dialog.current?.close();
  }, [call]);
  return (
    <dialog ref={dialog} data-testid="incoming" aria-label="Incoming call" onCancel={(e) => (e.preventDefault(), onReject())}>
      {call && (
        <>
          <div className="pulse">
            <Avatar name={call.from} />
          </div>
          <h2>{call.from}</h2>
          <p>{call.callType === 'video' ? 'Incoming video call' : 'Incoming voice call'}</p>
          <div className="row">
            <button type="button" className="danger" onClick={onReject} data-testid="reject">
              <PhoneOff size={20} aria-hidden /> Decline
            </button>
            <button type="button" className="accept" onClick={onAnswer} data-testid="accept" autoFocus>
              <Phone size={20} aria-hidden /> Answer
            </button>
          </div>
        </>
      )}
    </dialog>
  );
}

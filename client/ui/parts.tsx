// The small pieces that screens are made of.
import { Camera, CameraOff, MessageSquare, Mic, MicOff, MonitorUp, PhoneOff, RefreshCw, Send, UserPlus, Wifi } from 'lucide-react';
import { useEffect, useRef, useState, type FormEvent, type ReactNode } from 'react';
import type { Rating, Room } from '../src/index';
import { RATING_WORDS } from './hooks';

/** Plays a stream; audio of others is played even where there is no picture. `consumers`, with blanks between, are the room's that it shows. */
export function Video({ stream, mine, mirrored, testId, room, consumers = '' }: { stream: MediaStream; mine?: boolean; mirrored?: boolean; testId?: string; room?: Room; consumers?: string }) {
  const element = useRef<HTMLVideoElement>(null);
  useEffect(() => {
    if (element.current && element.current.srcObject !== stream) element.current.srcObject = stream;
  }, [stream]);
  // After the effect above: the tracks are in the stream already, and the room only follows the element.
  useEffect(() => {
    const [video, ids] = [element.current, consumers.split(' ').filter(Boolean)];
    if (!video || !room) return;
    const detach = ids.map((id) => room.attach(id, video));
    return () => detach.forEach((it) => it());
  }, [room, consumers]);
  return <video ref={element} className={mirrored ? 'mirrored' : undefined} autoPlay playsInline muted={mine} data-testid={testId} />;
}

/** Initials for who shows no picture. */
export function Avatar({ name }: { name: string }) {
  const hue = [...name].reduce((sum, letter) => (sum * 31 + letter.charCodeAt(0)) % 360, 7);
  return (
    <div className="avatar" style={{ background: `hsl(${hue} 45% 42%)` }} aria-hidden>
      {name.slice(0, 2).toUpperCase()}
    </div>
  );
}

export function QualityBadge({ rating }: { rating: Rating | undefined }) {
  if (!rating) return null;
  return (
    <span className={`quality ${rating}`} data-testid="quality" data-rating={rating} title={RATING_WORDS[rating]} role="img" aria-label={RATING_WORDS[rating]}>
      <Wifi size={14} aria-hidden />
    </span>
  );
}

function Tool({ label, testId, on, danger, onClick, children }: { label: string; testId: string; on?: boolean; danger?: boolean; onClick: () => void; children: ReactNode }) {
  return (
    <button type="button" className={`tool${on ? ' on' : ''}${danger ? ' danger' : ''}`} data-testid={testId} aria-label={label} aria-pressed={on} title={label} onClick={onClick}>
      {children}
    </button>
  );
}

export interface ToolbarProps {
  muted: boolean;
  cameraOff: boolean;
  sharing: boolean;
  hasMicrophone: boolean;
  hasCamera: boolean;
  chatOpen: boolean;
  unread: number;
  hangUpLabel: string;
  hangUpTestId: string;
  onMute: () => void;
  onCamera: () => void;
  onSwitch: () => void;
  onShare: () => void;
  onChat: () => void;
  /** Absent where nobody can be asked in. */
  onInvite?: () => void;
  onHangUp: () => void;
}

export function Toolbar(p: ToolbarProps) {
  const canShare = 'getDisplayMedia' in (navigator.mediaDevices ?? {});
  return (
    <nav className="toolbar" aria-label="Call controls">
      {p.hasMicrophone && (
        <Tool label={p.muted ? 'Unmute' : 'Mute'} testId="mute" on={p.muted} onClick={p.onMute}>
          {p.muted ? <MicOff /> : <Mic />}
        </Tool>
      )}
      {p.hasCamera && (
        <Tool label={p.cameraOff ? 'Turn the camera on' : 'Turn the camera off'} testId="camera" on={p.cameraOff} onClick={p.onCamera}>
          {p.cameraOff ? <CameraOff /> : <Camera />}
        </Tool>
      )}
      {p.hasCamera && (
        <Tool label="Switch camera" testId="switch-camera" onClick={p.onSwitch}>
          <RefreshCw />
        </Tool>
      )}
      {canShare && (
        <Tool label={p.sharing ? 'Stop sharing' : 'Share your screen'} testId="share" on={p.sharing} onClick={p.onShare}>
          <MonitorUp />
        </Tool>
      )}
      {p.onInvite && (
        <Tool label="Add somebody" testId="invite" onClick={p.onInvite}>
          <UserPlus />
        </Tool>
      )}
      <Tool label="Chat" testId="chat-toggle" on={p.chatOpen} onClick={p.onChat}>
        <MessageSquare />
        {p.unread > 0 && <span className="badge">{p.unread}</span>}
      </Tool>
      <Tool label={p.hangUpLabel} testId={p.hangUpTestId} danger onClick={p.onHangUp}>
        <PhoneOff />
      </Tool>
    </nav>
  );
}

/** Asks for the name of somebody to ring. */
export function Invite({ onInvite, onClose }: { onInvite: (name: string) => void; onClose: () => void }) {
  const dialog = useRef<HTMLDialogElement>(null);
  const [name, setName] = useState('');
  useEffect(() => dialog.current?.showModal(), []);
  const submit = (event: FormEvent) => {
    event.preventDefault();
    onInvite(name.trim());
    onClose();
  };
  return (
    <dialog ref={dialog} aria-label="Add somebody" onClose={onClose}>
      <form className="card plain" onSubmit={submit}>
        <h2>Add somebody</h2>
        <label>
          Their name
          <input value={name} onChange={(e) => setName(e.target.value)} required maxLength={128} autoFocus autoComplete="off" data-testid="invite-name" />
        </label>
        <div className="row">
          <button type="button" onClick={onClose}>
            Cancel
          </button>
          <button className="primary" type="submit" disabled={!name.trim()} data-testid="invite-send">
            Ring
          </button>
        </div>
      </form>
    </dialog>
  );
}

export interface ChatLine {
  from: string;
  text: string;
  mine: boolean;
}

export function Chat({ lines, onSend }: { lines: ChatLine[]; onSend: (text: string) => void }) {
  const [text, setText] = useState('');
  const end = useRef<HTMLLIElement>(null);
  useEffect(() => {
    // In braces: newer browsers return a promise, which React would take for a clean-up.
    end.current?.scrollIntoView({ block: 'end' });
  }, [lines.length]);
  const submit = (event: FormEvent) => {
    event.preventDefault();
    if (!text.trim()) return;
    onSend(text.trim());
    setText('');
  };
  return (
    <aside className="chat" aria-label="Chat">
      <ul data-testid="chat-log" aria-live="polite">
        {lines.length === 0 && <li className="hint">Messages are seen by everybody in the call and are not kept.</li>}
        {lines.map((line, index) => (
          <li key={index} className={line.mine ? 'mine' : undefined}>
            {!line.mine && <b>{line.from}</b>}
            <span>{line.text}</span>
          </li>
        ))}
        <li ref={end} aria-hidden className="end" />
      </ul>
      <form onSubmit={submit}>
        <input value={text} onChange={(e) => setText(e.target.value)} placeholder="Message" aria-label="Message" maxLength={4000} data-testid="chat-input" />
        <button type="submit" aria-label="Send" data-testid="chat-send">
          <Send size={18} />
        </button>
      </form>
    </aside>
  );
}

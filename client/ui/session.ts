// What survives a page reload: who we are, our session, and the call or room we were in. Per tab, so two tabs can be two
// people.
import type { CallTicket } from '../src/index';

export interface Kept {
  user?: string;
  token?: string;
  sessionId?: string;
  call?: CallTicket;
  room?: string;
}

const KEY = 'causeway';

export function load(): Kept {
  try {
    return JSON.parse(sessionStorage.getItem(KEY) ?? '{}') as Kept;
  } catch {
    return {};
  }
}

export function keep(change: Partial<Kept>): void {
  sessionStorage.setItem(KEY, JSON.stringify({ ...load(), ...change }));
}

export function forget(): void {
  sessionStorage.removeItem(KEY);
}

/** A token for this name from a server in dev mode; `null` when it is not. */
export async function devToken(user: string): Promise<string | null> {
  const reply = await fetch('/dev/token', {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ user }),
  });
  if (reply.status === 404 || reply.status === 405) return null;
  const body = (await reply.json()) as { token?: string; detail?: string; title?: string };
  if (!reply.ok || !body.token) throw new Error(body.detail ?? body.title ?? 'The server did not sign you in.');
  return body.token;
}

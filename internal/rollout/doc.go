// Package rollout decides, from events only, which configuration must run and
// what to persist and report.
//
// What runs over the local configuration is a remote configuration and values, of
// which either may be missing. A server offers them apart, the values in its
// connection settings, and both kinds of offers have the same rollout: what is
// offered is tried with the other part of the last known good. The machine knows
// both by their digests only.
//
// A [Machine] has no clock, no I/O and no logger. Its owner, the agent, calls
// [Machine.Step] with one [Event] at a time and performs the returned [Effect]s
// in their order. The caller's obligations:
//
//  1. Step is called by one goroutine, and never again before all effects of
//     the former call are performed.
//  2. Effects are performed in order. What is persisted is persisted before
//     what follows it is triggered or reported.
//  3. If a [Persist] that is marked Must fails, the remaining effects of that
//     step are dropped and [PersistFailed] is the next event.
//  4. After [Check], exactly one [Checked] comes back, with the same Ref.
//  5. After [StartTimer], [TimerFired] comes back with the same ID once the
//     duration has passed. Stopping timers is not necessary: late IDs are
//     ignored.
//  6. [Retrieve] is answered by exactly one [Serve] before Step, or the step
//     for PersistFailed, returns. A [Serve] that cannot be performed is followed
//     by [Unusable], and that by another Serve.
//
// One turn: Offered → Check → Checked → Persist, Trigger → Retrieve → Persist,
// Serve → Started → Ready → StartTimer(TrialTimer) → TimerFired → Persist,
// Report(APPLIED). For values it begins with SettingsOffered and ends with
// ReportSettings(APPLIED).
package rollout

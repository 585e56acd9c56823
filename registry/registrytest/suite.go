package registrytest

import (
	"testing"
)

// Run runs the suite. newBackend returns an empty store each time; the suite does not close it.
func Run(t *testing.T, newBackend func(t *testing.T) Backend) {
	for _, c := range []struct {
		name string
		f    func(*testing.T, Backend)
	}{
		{"backend/txn", testTxn},
		{"backend/range", testRange},
		{"backend/lease", testLease},
		{"backend/watch", testWatch},
		{"tenants/story", testTenants},
		{"tenants/conflicts", testConflicts},
		{"tenants/races", testRaces},
		{"tenants/versions", testVersions},
		{"tenants/prefix", testPrefixBleed},
		{"tenants/erased", testErased},
		{"tenants/reborn", testReborn},
		{"tenants/norecord", testNoRecord},
		{"tenants/onetenant", testOneTenant},
		{"tenants/contended", testContended},
		{"tenants/largest", testLargest},
		{"tenants/full", testFull},
		{"index/random", testRandom},
		{"index/gap", testGap},
		{"index/resume", testResume},
		{"index/half", testHalfSnapshot},
		{"claim/story", testClaim},
		{"claim/handoff", testHandoff},
		{"claim/shared", testShared},
		{"claim/lane", testConcurrentCommits},
		{"claim/bounds", testBounds},
		{"fence/handoff", testFenceHandoff},
		{"fence/expiry", testFenceExpiry},
		{"session/lost", testSessionLost},
		{"session/takeover", testTakeOver},
		{"session/stop", testStopReleases},
		{"outcome/lost", testLostAnswers},
		{"outcome/never", testNeverAnswered},
		{"outcome/late", testLateCommit},
		{"outcome/hang", testHang},
		{"outcome/refused", testRefusedLater},
		{"outcome/brokenoff", testBrokenOff},
		{"outcome/overtaken", testOvertaken},
		{"outbox", testOutbox},
		{"outbox/settle", testSettle},
		{"platform", testPlatform},
		{"platform/own", testPlatformOwn},
		{"read", testRead},
		{"used/story", testUsed},
		{"used/foreign", testUsedForeign},
		{"used/races", testUsedRaces},
		{"once", testOnce},
		{"keys/bots", testBotKeys},
		{"tenants/newer", testNewerWords},
		{"vault/story", testVault},
		{"vault/list", testVaultList},
		{"vault/refused", testVaultRefused},
		{"vault/prefix", testVaultPrefix},
		{"vault/reborn", testVaultReborn},
		{"vault/newer", testVaultNewer},
		{"vault/due", testVaultDue},
		{"vault/lock", testVaultLock},
		{"vault/mutex", testVaultMutex},
		{"vault/fence", testVaultFence},
		{"vault/expiry", testVaultExpiry},
		{"vault/dead", testVaultDeadHolder},
		{"vault/lost", testVaultLostAnswers},
		{"vault/orphan", testVaultOrphans},
		{"vault/full", testVaultFull},
		{"vault/hang", testVaultHang},
		{"vault/events", testVaultEvents},
		{"vault/missed", testVaultMissed},
		{"vault/slow", testVaultSlowSubscriber},
	} {
		t.Run(c.name, func(t *testing.T) { c.f(t, newBackend(t)) })
	}
}

package agent

import (
	"github.com/google/uuid"
	"go.uber.org/zap"
)

// uid returns the instance UID: what the server gave in this life, what is
// configured, what is saved, or one that is made and saved.
func (a *Agent) uid() (uuid.UUID, error) {
	switch {
	case a.givenUID != uuid.Nil:
		return a.givenUID, nil
	case a.settings.InstanceUID != uuid.Nil:
		return a.settings.InstanceUID, nil
	case a.savedUID != uuid.Nil:
		return a.savedUID, nil
	case a.store == nil:
		return processUID(a.name), nil
	case a.settings.RequestUID:
		// What is made is only to be used until the server answers; saving it
		// would end the asking.
		if id, err := a.store.savedUID(); err == nil {
			return id, nil
		}
		return processUID(a.name), nil
	default:
		return a.store.uid(func() uuid.UUID { return processUID(a.name) })
	}
}

// requestingUID reports whether the server is to be asked for an instance UID.
func (a *Agent) requestingUID() bool {
	if !a.settings.RequestUID || a.givenUID != uuid.Nil || a.settings.InstanceUID != uuid.Nil || a.savedUID != uuid.Nil {
		return false
	}
	if a.store == nil {
		return true
	}
	_, err := a.store.savedUID()
	return err != nil
}

// identified takes the instance UID that the server gave. The client uses it
// already; it is announced at once, with the attribute that repeats it.
func (a *Agent) identified(given uuid.UUID) {
	if given == uuid.Nil {
		a.log.Load().Warn("The server gave an instance UID of zeros, which is not used")
		return
	}
	if now, err := a.uid(); err == nil && now == given && !a.requestingUID() {
		return
	}
	a.log.Load().Info("The server gave this agent another instance UID", zap.Stringer("uid", given))
	a.givenUID = given
	switch {
	case a.settings.InstanceUID != uuid.Nil:
		a.log.Load().Warn("The instance UID that the server gave holds for this process; the next one has that of the configuration again: remove `instance_uid` from it")
	case a.storeErr != nil:
		a.log.Load().Warn("The instance UID that the server gave cannot be saved", zap.Error(a.storeErr))
	default:
		if err := a.store.saveUID(given); err != nil {
			a.log.Load().Warn("Saving the instance UID that the server gave", zap.Error(err))
		}
	}
	if a.session != nil && a.extension != nil {
		a.describe()
		a.planCertificate() // one for the former UID is another agent's
		a.reviseValues()
	}
}

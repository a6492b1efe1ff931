package gateway

import (
	"encoding/base64"
	"log/slog"

	"golang.org/x/crypto/bcrypt"

	"github.com/pebbledash/pebbledash/storage/auth"
)

// maxPassword is how long a password may be, which is bcrypt's.
const maxPassword = 72

// bcryptCost returns the cost that passwords are hashed with.
func bcryptCost(cost int, log *slog.Logger) int {
	if cost == 0 {
		return bcrypt.DefaultCost
	}
	if cost < bcrypt.MinCost || cost > bcrypt.MaxCost {
		log.Warn("the cost of bcrypt is out of bounds; the default is taken",
			slog.Int("cost", cost), slog.Int("default", bcrypt.DefaultCost))
		return bcrypt.DefaultCost
	}
	return cost
}

// hash takes a password's hash, which takes as long as is wanted.
func (a *authority) hash(password string) ([]byte, error) {
	return bcrypt.GenerateFromPassword([]byte(password), a.cost)
}

// hashedBefore takes the hash that a client has taken, as etcd does of a password
// that is to be changed.
func hashedBefore(hash string) ([]byte, error) {
	b, err := base64.StdEncoding.DecodeString(hash)
	if err != nil {
		return nil, auth.ErrNoPasswordUser
	}
	return b, nil
}

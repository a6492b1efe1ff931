package options

import (
	"fmt"
	"time"

	"github.com/spf13/pflag"

	"github.com/pebbledash/pebbledash/storage/auth"
)

// defaultBcryptCost is bcrypt's own.
const defaultBcryptCost = 10

// AuthOptions are about users that log in, once authentication is switched on.
type AuthOptions struct {
	Token      string
	TokenTTL   uint
	BcryptCost uint
}

func newAuthOptions() *AuthOptions {
	return &AuthOptions{Token: "simple", TokenTTL: uint(auth.DefaultTokenTTL / time.Second), BcryptCost: defaultBcryptCost}
}

// AddFlags adds the section's flags to fs.
func (o *AuthOptions) AddFlags(fs *pflag.FlagSet) {
	fs.StringVar(&o.Token, "auth-token", o.Token,
		"What users get that log in: \"simple\", or \"jwt\" with options, as in jwt,pub-key=FILE,priv-key=FILE,sign-method=RS256,ttl=10m.")
	fs.UintVar(&o.TokenTTL, "auth-token-ttl", o.TokenTTL, "Seconds for which a simple token is good that is not used.")
	fs.UintVar(&o.BcryptCost, "bcrypt-cost", o.BcryptCost, "Cost of hashing a password, between 4 and 31; each step doubles it.")
}

// maxTokenTTL is what fits in a time.Duration.
const maxTokenTTL = uint(1<<63-1) / uint(time.Second)

// Validate returns everything that is wrong.
func (o *AuthOptions) Validate() []error {
	var errs []error
	if _, _, err := auth.ParseTokenSpec(o.Token); err != nil {
		errs = append(errs, fmt.Errorf("--auth-token: %w", err))
	}
	if o.TokenTTL > maxTokenTTL {
		errs = append(errs, fmt.Errorf("--auth-token-ttl must not be greater than %d", maxTokenTTL))
	}
	return errs
}

func (o *AuthOptions) applyTo(c *CompletedConfig) {
	c.AuthToken = o.Token
	c.AuthTokenTTL = time.Duration(o.TokenTTL) * time.Second
	c.BcryptCost = int(min(o.BcryptCost, 1<<10)) // out of bounds as it is
}
